"""verl's policy loss with the gated policy as its own anchor.

verl's old log-probs come from the state that sampled each rollout (full or deployed). The update runs the gated
policy at w, which is another one. With one update per batch the PPO ratio of the gated policy is 1 by
construction, so the anchor is the update's own log-prob without gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from verl.trainer.ppo.core_algos import compute_policy_loss_vanilla, register_policy_loss

from evil_moe.experiment.settings import GATED_ON_POLICY


@register_policy_loss(GATED_ON_POLICY)
def gated_on_policy(
    old_log_prob: torch.Tensor, log_prob: torch.Tensor, **kwargs: Any
) -> tuple[torch.Tensor, dict[str, Any]]:
    """`-A * exp(log_prob - stopgrad(log_prob))`, aggregated by verl's `loss_agg_mode`.

    Args:
        old_log_prob: ignored, `[B, T]`. log_prob: of the gated policy, `[B, T]`.
    """
    return compute_policy_loss_vanilla(old_log_prob=log_prob.detach(), log_prob=log_prob, **kwargs)
