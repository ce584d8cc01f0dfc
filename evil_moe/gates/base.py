"""What every gate is given, and what it gives back."""

from __future__ import annotations

import math
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
    """

    score: Float[Tensor, " B"]
    logits: Float[Tensor, "B K"]
    flag: Float[Tensor, " B"] | None = None
    eligible: Float[Tensor, " B"] | None = None

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
    """

    needs_flag = False

    def observe(self, score: Float[Tensor, " B"]) -> None:
        """Called once a step with the scores of all its rollouts, on every rank alike, before their update."""

    def weight(self, signals: RolloutSignals) -> Float[Tensor, " B"]:
        """How much of a hack each rollout is to this gate, in [0, 1]: for the advantage and the log."""
        return signals.w

    def penalty(self, signals: RolloutSignals) -> Float[Tensor, ""] | None:
        """A term on the router to minimise, mean over the rollouts given; None for none."""
        return None

    def forward(self, signals: RolloutSignals) -> GateWeights:
        """`(m [B, K], d [B])` of the rollouts."""
        raise NotImplementedError


def constant(signals: RolloutSignals, m: float, d: float) -> GateWeights:
    """The same weights for every rollout."""
    logits = signals.logits.detach()
    return GateWeights(m=torch.full_like(logits, m), d=torch.full_like(logits[:, 0], d))
