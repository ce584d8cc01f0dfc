"""Holds the quarantine still while the deployed block learns (the discardable-LoRA baseline during RL).

A zero gradient alone does not hold a parameter: AdamW decays it all the same. So the step runs inside `around_step`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from evil_moe.gradients.base import GradientTransform, block_views, check_rank_deployed, shortened_step


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

    def around_step(
        self, parameters: Mapping[str, Tensor], kept_share: float
    ) -> AbstractContextManager[None]:
        """None of the step for the quarantine, whatever `kept_share`."""
        return shortened_step(parameters, self.quarantine, 0.0)
