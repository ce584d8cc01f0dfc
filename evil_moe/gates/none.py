"""No gate: a plain LoRA of the whole rank. m = 1, d = 0."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from evil_moe.adapter import GateWeights


class NoGate:
    """Both blocks are on and train on everything; the reference that no routing is measured against."""

    def __call__(self, w: Float[Tensor, " B"], num_quarantine: int) -> GateWeights:
        w = w.detach()
        return GateWeights(m=w.new_ones(len(w), num_quarantine), d=w.new_zeros(len(w)))
