"""Dr.GRPO (Liu et al. 2025, "Understanding R1-Zero-Like Training"): the reward less the mean of its group.

    A = reward - mean(reward),   over the rollouts of the group that were kept;   A = 0 where not kept

Screening a rollout (`keep` False) takes it out of the mean and of the update (Ariahw, Engels & Nanda 2025).
`std=True` divides by the group's standard deviation, which is GRPO (Shao et al. 2024). A = 0 throughout a group whose kept
rewards are all equal (`evil_moe.advantages.flat` says why that takes a line of its own).
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from evil_moe.advantages.flat import flat_groups
from evil_moe.advantages.rollouts import RolloutBatch


class DrGrpo:
    """The transform.

    Args:
        std: divide by the group's standard deviation over the kept rollouts (denominator n - 1, plus 1e-6, as in
            verl); a group of one has advantage 0.
    """

    def __init__(self, std: bool = False):
        self.std = std

    def __call__(self, batch: RolloutBatch) -> Float[Tensor, " B"]:
        keep = batch.keep.to(batch.reward)
        count = _group_sum(keep, batch.group)
        mean = _group_sum(keep * batch.reward, batch.group) / count.clamp(min=1)
        flat = flat_groups(batch.reward, batch.keep, batch.group)
        advantage = (keep * (batch.reward - mean)).masked_fill(flat, 0)
        if self.std:
            variance = _group_sum(advantage.square(), batch.group) / (count - 1).clamp(min=1)
            advantage = advantage / (variance.sqrt() + 1e-6)
        return advantage


def _group_sum(value: Float[Tensor, " B"], group: Tensor) -> Float[Tensor, " B"]:
    """Each rollout's sum over its group."""
    return value.new_zeros(int(group.max()) + 1).index_add_(0, group, value)[group]
