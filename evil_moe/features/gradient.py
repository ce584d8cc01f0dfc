"""Gradient features: of the completion's log-likelihood with respect to a shift of the deployed bottleneck, the same on all
tokens (vGROUT's routeV). They cost a backward pass, where activations ride on a forward that happens anyway."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from evil_moe.adapter import Lora2rModel
from evil_moe.features.base import stacked


def gradient_features(
    log_likelihood: Float[Tensor, ""], probes: dict[str, Tensor], tuner: Lora2rModel
) -> Float[Tensor, "B M r"]:
    """Each rollout's gradient of its log-likelihood at every deployed bottleneck (`ForwardState.reading_gradients`).

    Args:
        log_likelihood: summed over the rollouts, each of which depends on its own probes alone.
    """
    names = list(probes)
    gradients = torch.autograd.grad(log_likelihood, [probes[name] for name in names])
    by_module = dict(zip(names, (g.float() for g in gradients), strict=True))
    return stacked(by_module, [layer.module_name for layer in tuner.lora2r_layers()])
