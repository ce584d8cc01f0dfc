"""The Evil MoE gate: m = w, d = w, with a hard stop of the deployed block's gradient above a threshold.

The soft share 1 - w of a hack's gradient that still reaches the deployed block is the method's one open leak;
the hard stop closes it. The router's reward gradient flows through m alone, so the stop costs it nothing.

With K quarantine blocks, each with a direction of its own and a logit l_k:

    w = sigmoid(logsumexp_k l_k - log K),   p = softmax(l),   m_k = w p_k / max_j p_j,   d = w

Equal logits run all blocks at w, as the sampling policy `full` runs them at 1; clear preferences run the preferred
block alone. The deployed block is always on. K = 1 is the two-expert router to the bit.

Assignment and balance come from the literature on sparse experts and act within the quarantine bank only: balancing the
deployed block against the quarantine would send clean rollouts to the hack expert. The z-loss comes from there, too, and
is about the size of the logits: it draws logsumexp(l) to 0, and so w towards 1 / (1 + K) on all rollouts alike.
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
            that would run it most, m_k as above, of those that are run together (Zhou et al. 2022). By m and not by
            preference alone, or rollouts with w near 0 would take the places of hacks; and of those that may run it at
            all. A hack that no block takes trains nothing.
        capacity: of expert choice, in multiples of an equal share.
        balance: weight of `K sum_k f_k P_k` over the bank (Fedus et al. 2021, eq. 4): f_k is the share of the
            hack mass whose first choice is k, P_k the hack mass's mean p_k; 1 when balanced.
        z_loss: weight of `mean(logsumexp(l)^2)` (Zoph et al. 2022, eq. 5).

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

    def forward(self, signals: RolloutSignals) -> GateWeights:
        w, share = signals.w, torch.softmax(signals.logits, dim=1)
        m = w.unsqueeze(1) * share / share.max(dim=1, keepdim=True).values
        if self.assignment == "expert_choice":
            eligible = torch.ones_like(w) if signals.eligible is None else signals.eligible
            m = m * self._chosen(m.detach() * eligible.unsqueeze(1))
        d = w.detach()
        if self.hard_threshold is not None:
            d = torch.where(d > self.hard_threshold, torch.ones_like(d), d)
        return GateWeights(m=m, d=d)

    def _chosen(self, m: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        batch_size, num_blocks = m.shape
        places = min(batch_size, math.ceil(self.capacity * batch_size / num_blocks))
        return torch.zeros_like(m).scatter_(0, m.topk(places, dim=0).indices, 1.0)

    def penalty(self, signals: RolloutSignals) -> Float[Tensor, ""] | None:
        if not self.balance and not self.z_loss:
            return None
        logits, num_blocks = signals.logits, signals.logits.shape[1]
        w, share = signals.w.detach(), torch.softmax(logits, dim=1)
        mass = w / w.sum().clamp(min=1e-6)
        first = torch.nn.functional.one_hot(share.argmax(dim=1), num_blocks).to(share)
        balance = num_blocks * ((mass @ first) * (mass @ share)).sum()
        z_loss = torch.logsumexp(logits, dim=1).square().mean()
        return self.balance * balance + self.z_loss * z_loss
