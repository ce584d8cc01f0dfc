"""The Evil MoE gate: m = w, d = w, with a hard stop of the deployed block's gradient above a threshold.

The soft share 1 - w of a hack's gradient that still reaches the deployed block is the method's one open leak;
the hard stop closes it. The router's reward gradient flows through m alone, so the stop costs it nothing.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from evil_moe.adapter import GateWeights


class RouterGate:
    """Learned soft routing.

    Args:
        hard_threshold: d = 1 where w exceeds it; None keeps d = w.

    Raises:
        ValueError: hard_threshold outside (0, 1].
    """

    def __init__(self, hard_threshold: float | int | None = 0.5):
        if hard_threshold is not None and not 0 < hard_threshold <= 1:
            raise ValueError(
                f"evil_moe.gate.hard_threshold={hard_threshold} must lie in (0, 1], or be null for none"
            )
        self.hard_threshold = hard_threshold

    def __call__(self, w: Float[Tensor, " B"], num_quarantine: int) -> GateWeights:
        d = w.detach()
        if self.hard_threshold is not None:
            d = torch.where(d > self.hard_threshold, torch.ones_like(d), d)
        return GateWeights(m=w.unsqueeze(1).expand(-1, num_quarantine), d=d)
