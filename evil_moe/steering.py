"""Steering: add the direction to the activations at inference. If it means "hack", the policy must hack more.

    x -> x + alpha n_m pinv(A[:r]) v_m   at the input of every wrapped module m, so that   A[:r] x -> A[:r] x + alpha n_m v_m

v lives in the deployed bottleneck `A[:r] x`, and the pseudo-inverse gives the smallest change of the input that moves
the bottleneck by v. n_m is the mean length of the module's bottleneck over rollouts, so alpha is in units of it: with
features normalised per module, alpha moves a rollout's features by about alpha along v. Only r of the input's D
directions are reached, so the input itself moves by a share of about alpha |v_m| sqrt(r / D): alphas are large.

The tokens that are steered are those decoded one at a time with a cache, not the prompt: v is the mean over completions
(as in contrastive activation addition, Rimsky et al. 2024).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn as nn
from jaxtyping import Float
from torch import Tensor

from evil_moe.adapter import Lora2rModel


def bottleneck_lengths(features: Float[Tensor, "B M r"], *, normalise: bool) -> Float[Tensor, " M"]:
    """n_m: mean over rollouts of `|h_m|`. Without normalisation all modules share one unit, the mean of `|h|`."""
    if normalise:
        per_module: Tensor = features.norm(dim=-1).mean(0)
        return per_module
    whole: Tensor = features.flatten(1).norm(dim=1).mean()
    return whole.expand(features.shape[1])


@torch.no_grad()
def input_shifts(
    tuner: Lora2rModel,
    direction: Float[Tensor, "M r"],
    lengths: Float[Tensor, " M"],
    adapter_name: str = "default",
) -> list[Tensor]:
    """`n_m pinv(A[:r]) v_m` of every module, `[D_in]` each: the shift of the input at alpha 1."""
    shifts = []
    for place, layer in enumerate(tuner.lora2r_layers()):
        r, d_a = layer.configs[adapter_name].r, layer.lora_2r_dA[adapter_name]
        a = layer.lora_2r_A0[adapter_name][:r].float() + d_a[:r].float()
        shifts.append(torch.linalg.pinv(a) @ (lengths[place] * direction[place]).to(a))
    return shifts


@contextmanager
def steered(
    tuner: Lora2rModel, shifts: Sequence[Tensor], alpha: float, *, prompt: bool = False
) -> Iterator[None]:
    """Add `alpha * shift` to every module's input within the block; the hooks are gone after it, also after an error.

    Args:
        prompt: also steer forwards over several tokens at once, which is where `generate` reads the prompt.
    """
    layers = tuner.lora2r_layers()
    handles = []
    try:
        for layer, shift in zip(layers, shifts, strict=True):
            handles.append(layer.register_forward_pre_hook(_adding(alpha * shift, prompt)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _adding(shift: Tensor, prompt: bool) -> Any:
    def hook(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        x, *rest = inputs
        return (x + shift.to(x), *rest) if prompt or x.shape[-2] == 1 else None

    return hook


def fisher_p(hits: int, of: int, reference_hits: int, reference_of: int) -> float:
    """One-sided p-value of Fisher's exact test: as many hits or more, if both rates were the same."""
    total, drawn = of + reference_of, hits + reference_hits
    ways = sum(math.comb(of, k) * math.comb(reference_of, drawn - k) for k in range(hits, min(of, drawn) + 1))
    return ways / math.comb(total, drawn)
