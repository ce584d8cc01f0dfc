"""Groups whose values are all the same: nothing in them is better than the rest, and their deviation is no scale.

float32's mean of n equal numbers may be off by a rounding step. The deviation about it is that same step, so dividing one
by the other makes an advantage of ordinary size out of nothing (0.7 for all eight of a group: +0.056).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

ROUNDING_STEPS = 8
"""Values that lie within so many units in the last place count as equal: what a sum over a group may be off by."""


def flat_groups(
    value: Float[Tensor, " B"], keep: Bool[Tensor, " B"], group: Int[Tensor, " B"]
) -> Bool[Tensor, " B"]:
    """Whether the kept values of each rollout's group are all equal, up to rounding; True where none is kept."""

    def extreme(reduce: str, fill: float) -> Tensor:
        out = value.new_full((int(group.max()) + 1,), fill)
        return out.scatter_reduce(0, group, torch.where(keep, value, fill), reduce)

    low, high = extreme("amin", float("inf")), extreme("amax", float("-inf"))
    size = torch.maximum(low.abs(), high.abs())
    flat = high - low <= ROUNDING_STEPS * torch.finfo(value.dtype).eps * size
    return (flat | (high < low))[group]
