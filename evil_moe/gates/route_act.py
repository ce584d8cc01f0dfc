"""Three bands of the score: keep, absorb, route (vGROUT's routeA; on gradient features its routeV).

    score <= Q(keep_below)     keep:   m = 0, d = 0   the deployed block alone
    in between                 absorb: m = 1, d = 0   both blocks learn, the deployed one is kept
    score >  Q(route_above)    route:  m = 1, d = 1   the quarantine alone

Q are quantiles of the scores of recent rollouts, weighted by recency. What is remembered of a rollout are its features: when the
direction is taken anew, old rollouts are scored with it, too, since scores of two directions have no common scale. Nothing is learned but the blocks; which score
it is, of activations or of gradients, is `evil_moe.router.feature`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from evil_moe.adapter import GateWeights
from evil_moe.gates.base import Gate, RolloutSignals


def weighted_quantile(
    values: Float[Tensor, " N"], weights: Float[Tensor, " N"], q: float
) -> Float[Tensor, ""]:
    """The smallest value at which the weights up to it reach the share `q` of the whole."""
    values, order = values.sort()
    mass = weights[order].cumsum(0)
    return values[(mass < q * mass[-1] - 1e-6 * mass[-1]).sum().clamp(max=len(values) - 1)]


class RouteActGate(Gate):
    """Bands of the activation or gradient score.

    Args:
        keep_below, route_above: the two quantiles.
        half_life: after how many steps a rollout's score counts half.
        window: how many rollouts are remembered; `window * M * r` floats.

    Raises:
        ValueError: quantiles out of order or range, half_life or window not positive.
    """

    remembers = True
    scores: Tensor
    features: Tensor
    age: Tensor

    def __init__(
        self,
        keep_below: float = 0.5,
        route_above: float = 0.75,
        half_life: float = 3.0,
        window: int = 4096,
    ):
        super().__init__()
        if not 0 <= keep_below <= route_above <= 1:
            raise ValueError(
                f"evil_moe.gate: keep_below={keep_below}, route_above={route_above} must be quantiles in this order"
            )
        if half_life <= 0 or window < 1:
            raise ValueError(f"evil_moe.gate: half_life={half_life} and window={window} must be positive")
        self.quantiles, self.half_life = (keep_below, route_above), half_life
        # Steps since each rollout was seen; infinite where none has been seen yet.
        self.register_buffer("scores", torch.zeros(window))
        self.register_buffer("age", torch.full((window,), float("inf")))

    def allocate(self, *shape: int) -> None:
        self.register_buffer("features", self.scores.new_zeros(len(self.scores), *shape))

    @torch.no_grad()
    def observe(
        self,
        features: Float[Tensor, "B *W M r"],
        score: Callable[[Float[Tensor, "N *W M r"]], Float[Tensor, " N"]],
    ) -> None:
        window = len(self.scores)
        new_age = torch.cat([self.age + 1, self.age.new_zeros(len(features))])[-window:]
        self.features.copy_(torch.cat([self.features, features.to(self.features)])[-window:])
        self.age.copy_(new_age)
        self.scores.copy_(score(self.features))

    def thresholds(self) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The two scores between the bands.

        Raises:
            RuntimeError: no rollout has been observed.
        """
        if not bool(torch.isfinite(self.age).any()):
            raise RuntimeError("the bands have no thresholds yet: call observe with the rollouts first")
        weights = torch.exp2(-self.age / self.half_life)
        low, high = (weighted_quantile(self.scores, weights, q) for q in self.quantiles)
        return low, high

    def weight(self, signals: RolloutSignals) -> Float[Tensor, " B"]:
        weights: GateWeights = self(signals)
        return weights.d

    def forward(self, signals: RolloutSignals) -> GateWeights:
        low, high = self.thresholds()
        m = (signals.score > low).to(signals.score)
        d = (signals.score > high).to(signals.score)
        return GateWeights(m=m.unsqueeze(1).expand_as(signals.logits), d=d)
