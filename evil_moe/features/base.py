"""What a pooling is: from the deployed bottlenecks of a rollout's completion tokens to the features that the router scores."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from evil_moe.adapter import Lora2rModel, SequenceLayout


def normalise_per_module(features: Float[Tensor, "*B M r"]) -> Float[Tensor, "*B M r"]:
    """Unit norm per module, so that no module dominates the cosine by the size of its activations."""
    unit: Tensor = features / features.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    return unit


class Reading:
    """What one forward gives of its rollouts; `ForwardState.reading_features` fills it, module by module."""

    def __init__(self, tuner: Lora2rModel):
        self.names = [layer.module_name for layer in tuner.lora2r_layers()]

    def record(self, module: str, bottleneck: Float[Tensor, "b T r"], layout: SequenceLayout) -> None:
        """Called by every wrapped linear, without gradient."""
        raise NotImplementedError

    def features(
        self, eyes: Float[Tensor, "N M r"] | None = None, *, normalise: bool = True
    ) -> Float[Tensor, "B *W M r"]:
        """The rollouts' features, float32, modules in the tuner's order.

        Args:
            eyes: directions to look along, where the pooling looks along any (`Pooling.by_direction`).
            normalise: unit features per module before the cosine with them, as the router has it.

        Raises:
            RuntimeError: a wrapped module took no part in the forward.
        """
        raise NotImplementedError


class Pooling:
    """A plug at the stop between a forward and the router.

    Attributes:
        by_direction: whether it depends on the direction what of a rollout is looked at; features are then `[B, W, M, r]`, with
            `windows` of them for each of the eyes, in their order, else `[B, M, r]`.
        windows: for each eye.
    """

    by_direction = False
    windows = 1

    def reading(self, tuner: Lora2rModel) -> Reading:
        """For one forward of a model with this tuner."""
        raise NotImplementedError


def stacked(by_module: dict[str, Tensor], names: list[str]) -> Tensor:
    """Modules in the order of `names`, in a new axis before the last.

    Raises:
        RuntimeError: a wrapped module took no part in the forward.
    """
    if missing := [name for name in names if name not in by_module]:
        raise RuntimeError(
            f"no features from {len(missing)} of {len(names)} modules, e.g. {missing[0]}: not in the forward"
        )
    return torch.stack([by_module[name] for name in names], dim=-2)
