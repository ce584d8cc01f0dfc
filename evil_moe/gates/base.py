"""What every gate is given, and what it gives back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from evil_moe.adapter import GateWeights


@dataclass(frozen=True)
class RolloutSignals:
    """What a gate may know of the rollouts of a batch.

    Attributes:
        score: largest cosine of the features with a direction, `[B]`, no gradient.
        logits: the router's logit of every quarantine block, `[B, K]`; may carry gradient to the directions.
        flag: a detector's verdict, `[B]`, 1 or 0. None for every gate that does not ask for it (`needs_flag`).
        eligible: 1 where the update may turn the quarantine on, `[B]`, 0 in the deployed model's own rollouts where they are
            run as they were sampled (`gate_deployed: false`); None: everywhere. It is off there whatever the gate says.
        in_step: each rollout's row of what the gate found over the step that it belongs to (`Gate.over_step`), `[B, C]`; None:
            these rollouts are the whole step.
    """

    score: Float[Tensor, " B"]
    logits: Float[Tensor, "B K"]
    flag: Float[Tensor, " B"] | None = None
    eligible: Float[Tensor, " B"] | None = None
    in_step: Float[Tensor, "B C"] | None = None

    @property
    def logit(self) -> Float[Tensor, " B"]:
        """`logsumexp_k l_k - log K`: the mean block's odds; for one block its own logit, to the bit."""
        return torch.logsumexp(self.logits, dim=1) - math.log(self.logits.shape[1])

    @property
    def w(self) -> Float[Tensor, " B"]:
        """The router's weight, `sigmoid(logit)`."""
        return torch.sigmoid(self.logit)


class Gate(nn.Module):
    """From signals to the weights the adapter runs the rollouts with. State, if any, is in buffers, so that it
    is saved and resumed with the adapter.

    Attributes:
        needs_flag: whether the gate reads a detector's flag, which the border keeps from all others.
        needs_step: whether it weighs a rollout by the others of its step (`over_step`).
        remembers: whether it keeps rollouts of the steps before (`observe`).
    """

    needs_flag = False
    needs_step = False
    remembers = False

    def allocate(self, *shape: int) -> None:
        """Called once, before any state is loaded, with the shape of a rollout's features, `[M, r]` or `[W, M, r]`."""

    def observe(
        self,
        features: Float[Tensor, "B *W M r"],
        score: Callable[[Float[Tensor, "N *W M r"]], Float[Tensor, " N"]],
    ) -> None:
        """Called once a step, before its update, where the gate `remembers`: with the features of all its rollouts, on every rank
        alike, and what scores features with the direction as it now is."""

    def over_step(self, signals: RolloutSignals) -> Float[Tensor, "B C"]:
        """What of a rollout's weights and penalty depends on the other rollouts of its step, where the gate `needs_step`: a row for
        each rollout, without gradient. Called before an update with all its rollouts, on every rank alike; the update then runs in
        micro-batches, each with its rows as `signals.in_step`."""
        raise NotImplementedError

    def weight(self, signals: RolloutSignals) -> Float[Tensor, " B"]:
        """How much of a hack each rollout is to this gate, in [0, 1]: for the advantage and the log."""
        return signals.w

    def penalty(self, signals: RolloutSignals) -> Float[Tensor, ""] | None:
        """A term on the router to minimise, mean over the rollouts given; None for none. The step's is the mean over its
        micro-batches and ranks, each counted by its rollouts."""
        return None

    def forward(self, signals: RolloutSignals) -> GateWeights:
        """`(m [B, K], d [B])` of the rollouts."""
        raise NotImplementedError


def constant(signals: RolloutSignals, m: float, d: float) -> GateWeights:
    """The same weights for every rollout."""
    logits = signals.logits.detach()
    return GateWeights(m=torch.full_like(logits, m), d=torch.full_like(logits[:, 0], d))
