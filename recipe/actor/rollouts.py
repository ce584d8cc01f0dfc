"""What a batch of verl's says of its rollouts, for the method, and of the policy that sampled them."""

from __future__ import annotations

from typing import Any

from tensordict import TensorDict
from torch import Tensor
from verl.workers.utils.padding import response_from_nested

from evil_moe.diagnostics import policy_mismatch
from evil_moe.passes import Rollouts
from recipe.actor.fields import FEATURES, FLAG, IN_STEP, QUARANTINE_ON
from recipe.actor.tensors import dense


def rollouts_of(
    batch: TensorDict, device: Any, *, needs_flag: bool, features: Tensor | None = None
) -> Rollouts:
    """On `device`; `features` where they are not in the batch, a detector's flag only where the gate `needs_flag`."""
    if features is None and FEATURES in batch:
        features = batch[FEATURES]
    return Rollouts(
        quarantine_on=dense(batch[QUARANTINE_ON]).squeeze(1).to(device),
        features=None if features is None else dense(features).to(device),
        flag=dense(batch[FLAG]).squeeze(1).float().to(device) if needs_flag else None,
        in_step=dense(batch[IN_STEP]).to(device) if IN_STEP in batch else None,
    )


def mismatch_metrics(model_output: dict[str, Tensor], micro_batch: TensorDict) -> dict[str, float]:
    """How far the gated policy at the update is from the one that sampled, per token (docs/architecture.md, "The behaviour policy")."""
    if "rollout_log_probs" not in micro_batch:
        return {}
    replies = response_from_nested(model_output["log_probs"].detach(), micro_batch["response_mask"])
    log_ratio = replies.values() - micro_batch["rollout_log_probs"].values()
    on, lengths = dense(micro_batch[QUARANTINE_ON]).squeeze(1).to(log_ratio), replies.offsets().diff()
    by_full = on.repeat_interleave(lengths, output_size=len(log_ratio)) > 0
    found = policy_mismatch(log_ratio, by_full)
    return {f"mismatch/{name}": value for name, value in found.items()}
