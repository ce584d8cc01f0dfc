"""Absorb: both blocks train on everything, half on, and only the deployed one is kept. m = d = constant.

The control for "any part of an adapter that is thrown away takes some hacking with it".
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from evil_moe.adapter import GateWeights


class AbsorbGate:
    """The same weight for every rollout, whatever the router says.

    Args:
        weight: m and d of every rollout. At 0.5 the two blocks share output and gradient evenly.

    Raises:
        ValueError: weight outside [0, 1].
    """

    def __init__(self, weight: float = 0.5):
        if not 0 <= weight <= 1:
            raise ValueError(f"evil_moe.gate.weight={weight} must lie in [0, 1]")
        self.weight = weight

    def __call__(self, w: Float[Tensor, " B"], num_quarantine: int) -> GateWeights:
        w = w.detach()
        return GateWeights(
            m=w.new_full((len(w), num_quarantine), self.weight), d=w.new_full((len(w),), self.weight)
        )
