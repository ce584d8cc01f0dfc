"""The deployed block steps as far as the share of the rollouts that trains it.

Routing scales a rollout's gradient to the deployed block by `1 - w`. Adam divides a gradient by its own running size
(Kingma & Ba 2015), so scaling all of them says nothing to it: a block that is left with 3 of 80 rollouts would step as
far as one that sees them all, on 3 rollouts' noise, towards whatever those happen to hold. Here it takes that share of
its step, weight decay included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from evil_moe.gradients.base import GradientTransform, block_views, check_rank_deployed


class KeptShare(GradientTransform):
    """Shortens the step of the deployed block: rows `[:r]` of dA, columns `[:r]` of dB.

    Args:
        rank_deployed: r, the rank of the deployed block.

    Raises:
        ValueError: rank_deployed below 1.
    """

    def __init__(self, rank_deployed: int):
        self.deployed = slice(0, check_rank_deployed(rank_deployed))

    @contextmanager
    def around_step(self, parameters: Mapping[str, Tensor], kept_share: float) -> Iterator[None]:
        """`old + kept_share * (new - old)` after the step."""
        with torch.no_grad():
            views = block_views(parameters, self.deployed)
            before = [view.clone() for view in views]
            yield
            for view, old in zip(views, before, strict=True):
                view.copy_(torch.lerp(old, view, kept_share))
