"""Rebound: rollouts that look like the concept lose advantage. After the Advantage Modification of Wu & Tang 2026 ("When
Reward Hacking Rebounds", arXiv:2604.01476).

    A' = A - strength * max(0, z)   where A > 0,   else A' = A
    z  = (concept - mean) / std,    over the kept rollouts of the batch (all equal: z = 0)

The paper puts the score of a "shortcut" direction at a hidden layer into GRPO's advantage, so that a hack is penalised
before the update. Its exact formula was not at hand: ours touches only what would be reinforced, so that a failure is
not punished twice, and lets a strong score turn the sign. Our score is the cosine of the adapter's bottleneck with the
pairs' direction in the layers of a share of the depth (`evil_moe.concept`), theirs a projection of the residual stream.
At strength 0 it is the base's advantage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from evil_moe.advantages.dr_grpo import DrGrpo
from evil_moe.advantages.flat import flat_groups
from evil_moe.advantages.rollouts import RolloutBatch
from evil_moe.concept import DEPTH, check_depth


class Rebound:
    """The transform.

    Args:
        strength: advantage that one standard deviation of the concept score costs, in units of the base's advantage
            (Dr.GRPO's: of the reward).
        base: the transform whose advantages are modified; None for Dr.GRPO.
        depth: shares of the depth between which the concept is read; the engine, which reads it, takes them from here.

    Raises:
        ValueError: strength is negative, or depth is no two shares in order.
    """

    needs_concept = True

    def __init__(
        self,
        strength: float | int = 1.0,
        base: Callable[[RolloutBatch], Float[Tensor, " B"]] | None = None,
        depth: Sequence[float] = DEPTH,
    ):
        check_depth(depth)
        if not strength >= 0:
            raise ValueError(f"evil_moe.advantage.strength={strength} must not be negative")
        self.strength, self.base = strength, base or DrGrpo()

    def __call__(self, batch: RolloutBatch) -> Float[Tensor, " B"]:
        """Advantages of the rollouts.

        Raises:
            ValueError: the batch carries no concept score.
        """
        if batch.concept is None:
            raise ValueError(
                "evil_moe.advantage.name='rebound' needs a concept score of every rollout: fill RolloutBatch.concept"
            )
        advantage = self.base(batch)
        penalty = self.strength * _standardised(batch.concept, batch.keep).clamp(min=0)
        return torch.where(advantage > 0, advantage - penalty, advantage)


def _standardised(score: Float[Tensor, " B"], keep: Bool[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Mean 0 and variance 1 over the kept rollouts; 0 where those all score the same."""
    if bool(flat_groups(score, keep, torch.zeros_like(score, dtype=torch.long)).all()):
        return torch.zeros_like(score)
    kept = score[keep]
    return (score - kept.mean()) / kept.std(correction=0)
