"""The forwards over a step's rollouts: one that reads them, and one that updates with them, micro-batch by micro-batch.

A pass is made for all rollouts of a rank (`MethodStep.read_pass`, `update_pass`); `forward` then says of each micro-batch with what
weights the adapter runs it, and what becomes of what it shows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from evil_moe.adapter import GateWeights, Lora2rModel
from evil_moe.features import Pooling, gradient_features
from evil_moe.gates import Gate, RolloutSignals
from evil_moe.router import Router
from evil_moe.settings import MethodSettings


@dataclass(frozen=True)
class Rollouts:
    """What the method is told of some rollouts; no label, but for gates that ask for a detector's.

    Attributes:
        quarantine_on: 1 if both blocks made the rollout, 0 if the deployed block alone did.
        features: of the read pass; None before it.
        flag: a detector's verdict; None for every gate without `needs_flag`.
        in_step: the rows of `UpdatePass.in_step`, once micro-batches have parted the rollouts.
    """

    quarantine_on: Float[Tensor, " B"]
    features: Float[Tensor, "B *W M r"] | None = None
    flag: Float[Tensor, " B"] | None = None
    in_step: Float[Tensor, "B C"] | None = None

    def __len__(self) -> int:
        return len(self.quarantine_on)


@dataclass(frozen=True)
class Forward:
    """One micro-batch on its way through the model.

    Attributes:
        weights: what the adapter runs it with.
        features: of its rollouts, `[B, *W, M, r]`, to be called when the model has run, with the sum of their completions'
            log-probabilities; None where nothing is read.
        penalty: the gate's own term on the loss.
    """

    weights: GateWeights
    features: Callable[[Callable[[], Tensor]], Tensor] | None = None
    penalty: Callable[[], Tensor | float] = lambda: 0.0


@dataclass(frozen=True)
class ReadPass:
    """Every rollout in the state that features are read in; log-probs are of the same forward.

    Attributes:
        eyes: what the pooling looks along, `[N, M, r]`; None where it looks along nothing.
    """

    settings: MethodSettings
    tuner: Lora2rModel
    router: Router
    pooling: Pooling
    eyes: Tensor | None

    @contextmanager
    def forward(self, rollouts: Rollouts) -> Iterator[Forward]:
        """Holds the forward of a micro-batch."""
        of_base, state = self.settings.feature_state == "base", self.tuner.forward_state
        weights = pure_state(
            self.settings.feature_state, rollouts.quarantine_on, self.settings.adapter.num_quarantine
        )
        with ExitStack() as stack:
            if self.settings.router.feature == "gradient":
                stack.enter_context(torch.enable_grad())  # old log-probs are read without
                probes = stack.enter_context(state.reading_gradients())
                yield Forward(weights, lambda total: gradient_features(total(), probes, self.tuner))
            else:
                reading = stack.enter_context(
                    state.reading_features(self.pooling.reading(self.tuner), of_base)
                )
                yield Forward(weights, lambda _: reading.features(self.eyes, normalise=self.router.normalise))


class UpdatePass:
    """Every rollout as its gate says, with the gradient of v.

    Args:
        direction: v as a whole tensor, with gradient.
        rows: rollouts of the step, mean over ranks.
        in_step: what the gate found of this rank's rollouts over the whole step, `[B, C]`; None where it asks for nothing.
        unrouted: no gradient is kept from the deployed block, d = 0.

    Attributes:
        kept: of each rollout, the share of the deployed block's gradient that is let through.
        penalties: the gate's own term on each micro-batch, times its share of the rollouts of a rank.
    """

    def __init__(
        self,
        settings: MethodSettings,
        router: Router,
        gate: Gate,
        direction: Callable[[], Tensor],
        rows: float,
        in_step: Tensor | None = None,
        *,
        unrouted: bool = False,
    ):
        self.settings, self.router, self.gate, self.direction = settings, router, gate, direction
        self.rows, self.in_step, self.unrouted = rows, in_step, unrouted
        self.kept: list[Tensor] = []
        self.penalties: list[Tensor] = []

    def without_routing(self) -> UpdatePass:
        """The same rollouts once more, with d = 0."""
        return UpdatePass(
            self.settings, self.router, self.gate, self.direction, self.rows, self.in_step, unrouted=True
        )

    @contextmanager
    def forward(self, rollouts: Rollouts) -> Iterator[Forward]:
        """Holds the forward of a micro-batch. Its backward, which may run the layers again, comes after."""
        signals = signals_of(self.settings, self.router, self.direction(), rollouts)
        yield Forward(self._weights(signals), penalty=lambda: self._penalty(signals, len(rollouts)))

    def _weights(self, signals: RolloutSignals) -> GateWeights:
        if not self.settings.router.reward_gradient:
            signals = dataclasses.replace(signals, logits=signals.logits.detach())
        weights: GateWeights = self.gate(signals)
        if self.unrouted:
            weights = dataclasses.replace(weights, d=torch.zeros_like(weights.d))
        self.kept.append((1 - weights.d) * (1 if weights.deployed is None else weights.deployed.detach()))
        if signals.eligible is not None:
            weights = dataclasses.replace(weights, m=weights.m * signals.eligible.unsqueeze(1))
        return weights

    def _penalty(self, signals: RolloutSignals, rows: int) -> Tensor | float:
        """So that micro-batches and ranks add up to the mean over the step's rollouts; with the gradient of v, whatever reward may
        move."""
        penalty = self.gate.penalty(signals)
        if penalty is None:
            return 0.0
        self.penalties.append(penalty.detach() * rows / self.rows)
        return penalty * rows / self.rows


def signals_of(
    settings: MethodSettings, router: Router, direction: Tensor, rollouts: Rollouts
) -> RolloutSignals:
    """What a gate sees of rollouts that have been read, with gradient to the direction."""
    assert rollouts.features is not None, "an update is of rollouts that have been read"
    signals = router.rollout_signals(rollouts.features, direction, rollouts.flag)
    eligible = None if settings.gate_deployed else rollouts.quarantine_on
    return dataclasses.replace(signals, eligible=eligible, in_step=rollouts.in_step)


def pure_state(state: str, on: Tensor, num_quarantine: int) -> GateWeights:
    """Weights of the state that features are read in; `on: [B]` is 1 on rollouts that both blocks made. In state `base`
    the reading itself leaves the adapter out."""
    if state != "rollout":
        on = torch.full_like(on, float(state == "full"))
    return GateWeights(m=on.unsqueeze(1).expand(-1, num_quarantine), d=torch.zeros_like(on))
