"""Absorb: both blocks train on everything, and only the deployed one is kept. m and d are constants.

The control for "any part of an adapter that is thrown away takes some hacking with it".
"""

from __future__ import annotations

from evil_moe.adapter import GateWeights
from evil_moe.gates.base import Gate, RolloutSignals, constant


class AbsorbGate(Gate):
    """The same weights for every rollout, whatever the router says.

    Args:
        m: weight of the quarantine's output. d: what is taken from the deployed block's gradient. At 0.5 and 0.5 the two
            blocks share output and gradient evenly; at 1 and 0 both are on as in the model that samples, and train on all.

    Raises:
        ValueError: a weight outside [0, 1].
    """

    def __init__(self, m: float = 0.5, d: float = 0.5):
        super().__init__()
        for name, value in (("m", m), ("d", d)):
            if not 0 <= value <= 1:
                raise ValueError(f"evil_moe.gate.{name}={value} must lie in [0, 1]")
        self.m, self.d = m, d

    def forward(self, signals: RolloutSignals) -> GateWeights:
        return constant(signals, m=self.m, d=self.d)
