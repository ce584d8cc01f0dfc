"""The deployed block steps as far as the share of the rollouts that trains it.

Routing scales a rollout's gradient to the deployed block by `1 - w`. Adam divides a gradient by its own running size
(Kingma & Ba 2015), so scaling all of them says nothing to it: a block that is left with 3 of 80 rollouts would step as
far as one that sees them all, on 3 rollouts' noise, towards whatever those happen to hold. Here it takes that share of
its step, weight decay included, and none of it, to the bit, where all rollouts are detached.

That modified gradients are undone by Adam in this way is known (arXiv 2604.22407; "split moment" of shawnghu/small-rl): see
`split_moment`, which answers the same in Adam's moments. The two do not combine.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager

from torch import Tensor

from evil_moe.gradients.base import GradientTransform, check_rank_deployed, shortened_step


class KeptShare(GradientTransform):
    """Shortens the step of the deployed block: rows `[:r]` of dA, columns `[:r]` of dB.

    Args:
        rank_deployed: r, the rank of the deployed block.

    Raises:
        ValueError: rank_deployed below 1.
    """

    def __init__(self, rank_deployed: int):
        self.deployed = slice(0, check_rank_deployed(rank_deployed))

    def around_step(
        self, parameters: Mapping[str, Tensor], kept_share: float
    ) -> AbstractContextManager[None]:
        """`kept_share` of the step for the deployed block."""
        return shortened_step(parameters, self.deployed, kept_share)
