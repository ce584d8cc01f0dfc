"""Holds the quarantine still while the deployed block learns (the discardable-LoRA baseline during RL).

A zero gradient alone does not hold a parameter: AdamW decays it all the same. So the step runs inside `around_step`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from evil_moe.gradients.base import GradientTransform, block_views, check_rank_deployed


class FreezeQuarantine(GradientTransform):
    """Zeroes the gradients of the quarantine: rows `[r:]` of dA, columns `[r:]` of dB.

    Args:
        rank_deployed: r, the rank of the deployed block.

    Raises:
        ValueError: rank_deployed below 1.
    """

    def __init__(self, rank_deployed: int):
        self.quarantine = slice(check_rank_deployed(rank_deployed), None)

    @torch.no_grad()
    def __call__(self, gradients: dict[str, Tensor]) -> dict[str, float]:
        """Zero them in place; gradients may be sharded.

        Raises:
            ValueError: a name is neither a dA nor a dB.
        """
        for view in block_views(gradients, self.quarantine):
            view.zero_()
        return {}

    @contextmanager
    def around_step(self, parameters: Mapping[str, Tensor], kept_share: float) -> Iterator[None]:
        """Put the quarantine back to the bit after the step."""
        with torch.no_grad():
            views = block_views(parameters, self.quarantine)
            saved = [view.clone() for view in views]
            try:
                yield
            finally:
                for view, value in zip(views, saved, strict=True):
                    view.copy_(value)
