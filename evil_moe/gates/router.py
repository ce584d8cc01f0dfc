"""The Evil MoE gate: m = w, d = w, with a hard stop of the deployed block's gradient above a threshold.

The soft share 1 - w of a hack's gradient that still reaches the deployed block is the method's one open leak;
the hard stop closes it. The router's reward gradient flows through m alone, so the stop costs it nothing.

With K quarantine blocks, each with a direction of its own and a logit l_k:

    w = sigmoid(logsumexp_k l_k - log K),   p = softmax(l),   m_k = w p_k / max_j p_j,   d = w

Equal logits run all blocks at w, as the sampling policy `full` runs them at 1; clear preferences run the preferred
block alone. The deployed block is always on. K = 1 is the two-expert router to the bit.

Assignment and balance come from the literature on sparse experts and act within the quarantine bank only: balancing the
deployed block against the quarantine would send clean rollouts to the hack expert. Both are over all rollouts of a step, however
these are split into micro-batches and ranks (`over_step`). The z-loss comes from there, too, and is about the size of the
logits of all experts. The deployed block's is 0, as w is the softmax of (0, l) for one quarantine block: rollouts with a low l,
which run the deployed block, are left alone, and w of the others is drawn down.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from evil_moe.adapter import GateWeights
from evil_moe.gates.base import Gate, RolloutSignals

ASSIGNMENTS = ("softmax", "expert_choice")


class RouterGate(Gate):
    """Learned soft routing.

    Args:
        hard_threshold: d = 1 where w exceeds it; None keeps d = w.
        assignment: `softmax`: every block as preferred; `expert_choice`: each block takes the `capacity * B / K` rollouts
            of a step that would run it most, m_k as above (Zhou et al. 2022). By m and not by
            preference alone, or rollouts with w near 0 would take the places of hacks; and of those that may run it at
            all. A hack that no block takes trains nothing.
        capacity: of expert choice, in multiples of an equal share.
        balance: weight of `K sum_k f_k P_k` over the bank (Fedus et al. 2021, eq. 4): f_k is the share of the step's
            hack mass whose first choice is k, P_k the hack mass's mean p_k; 1 when balanced.
        z_loss: weight of `mean(log(1 + sum_k exp(l_k) / K)^2)`, the squared log-partition of the deployed and the quarantine
            expert (Zoph et al. 2022, eq. 5), mean over the step's rollouts.

    Raises:
        ValueError: an option outside its range.
    """

    def __init__(
        self,
        hard_threshold: float | int | None = 0.5,
        assignment: str = "softmax",
        capacity: float = 1.0,
        balance: float = 0.0,
        z_loss: float = 0.0,
    ):
        super().__init__()
        if hard_threshold is not None and not 0 < hard_threshold <= 1:
            raise ValueError(
                f"evil_moe.gate.hard_threshold={hard_threshold} must lie in (0, 1], or be null for none"
            )
        if assignment not in ASSIGNMENTS:
            raise ValueError(f"evil_moe.gate.assignment={assignment!r}; choose one of {list(ASSIGNMENTS)}")
        if capacity <= 0 or balance < 0 or z_loss < 0:
            raise ValueError(
                f"evil_moe.gate: capacity={capacity} must be above 0, balance={balance} and z_loss={z_loss} not below"
            )
        self.hard_threshold, self.assignment, self.capacity = hard_threshold, assignment, capacity
        self.balance, self.z_loss = balance, z_loss
        self.needs_step = assignment == "expert_choice" or balance > 0

    def forward(self, signals: RolloutSignals) -> GateWeights:
        m = self._preferred(signals)
        if self.assignment == "expert_choice":
            m = m * self._in_step(signals)[0]
        d = signals.w.detach()
        if self.hard_threshold is not None:
            d = torch.where(d > self.hard_threshold, torch.ones_like(d), d)
        return GateWeights(m=m, d=d)

    def penalty(self, signals: RolloutSignals) -> Float[Tensor, ""] | None:
        if not self.balance and not self.z_loss:
            return None
        _, pull, part = self._in_step(signals)
        balance = (pull * torch.softmax(signals.logits, dim=1)).sum() / part.sum()
        z_loss = torch.nn.functional.softplus(signals.logit).square().mean()
        return self.balance * balance + self.z_loss * z_loss

    @torch.no_grad()
    def over_step(self, signals: RolloutSignals) -> Float[Tensor, "B C"]:
        """`[B, 2 K + 1]`: whether a block takes the rollout; what its p_k weighs in the balance, `K f_k` times its share of the hack
        mass; and its share of the step's rollouts."""
        w, share = signals.w, torch.softmax(signals.logits, dim=1)
        batch_size, num_blocks = share.shape
        m = self._preferred(signals)
        if signals.eligible is not None:
            m = m * signals.eligible.unsqueeze(1)
        places = min(batch_size, math.ceil(self.capacity * batch_size / num_blocks))
        first = m.argsort(dim=0, descending=True, stable=True)[:places]  # of equals, those that come first
        taken = torch.zeros_like(m).scatter_(0, first, 1.0)
        mass = w / w.sum().clamp(min=1e-6)
        first_choice = torch.nn.functional.one_hot(share.argmax(dim=1), num_blocks).to(share)
        pull = num_blocks * mass.unsqueeze(1) * (mass @ first_choice)
        return torch.cat([taken, pull, torch.full_like(w, 1 / batch_size).unsqueeze(1)], dim=1)

    def _in_step(self, signals: RolloutSignals) -> tuple[Tensor, Tensor, Float[Tensor, " B"]]:
        """The columns of `over_step`."""
        rows = self.over_step(signals) if signals.in_step is None else signals.in_step
        num_blocks = signals.logits.shape[1]
        taken, pull, part = rows.split([num_blocks, num_blocks, 1], dim=1)
        return taken, pull, part.squeeze(1)

    @staticmethod
    def _preferred(signals: RolloutSignals) -> Float[Tensor, "B K"]:
        """m_k of every block as it is preferred."""
        share = torch.softmax(signals.logits, dim=1)
        return signals.w.unsqueeze(1) * share / share.max(dim=1, keepdim=True).values
