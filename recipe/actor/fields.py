"""The border between the grader and the actor, the one place that names verl's batch fields, and the rows' order.

No label of a training rollout may enter the routing. verl hands a worker every field of a batch unless told
otherwise, the grader's verdicts among them, so each call to the actor goes through `actor_view`, and the actor
refuses a batch that carries anything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from tensordict import NonTensorData, TensorDict
from transfer_queue import KVBatchMeta

QUARANTINE_ON = "quarantine_on"
"""1 if both blocks made the rollout, 0 if the deployed block alone did; `[B, 1]`."""
FEATURES = "features"
"""Pooled features of the old-log-prob pass, `[B, M, r]`."""
WEIGHT = "w"
"""The router's weight of a rollout, `[B, 1]`, without gradient."""
SCORE = "router_score"
"""Cosine of the features with the direction, `[B, 1]`."""
PAID = "paid_reward"
"""Reward after a monitor's penalty, `[B, 1]`; the trainer's alone."""
CONCEPT = "concept"
"""Concept score of a rollout, `[B, 1]`, for the advantage transforms that ask for one."""
FLAG = "flag"
"""A detector's verdict, `[B, 1]`: for gates with `needs_flag` alone, and in no other arm's batch."""
IN_STEP = "in_step"
"""What the gate found of a rollout over its step; made within the actor, and in no batch that comes to it."""
GATE_STATE = "gate_state"
"""Of a whole batch: "read" (what inference does unless told otherwise) or "gated" (what training does)."""

_TOKENS = ("input_ids", "position_ids", "prompts", "responses", "response_mask", "loss_mask")
LOG_PROB_FIELDS = (*_TOKENS, QUARANTINE_ON, "rollout_log_probs")
GATED_LOG_PROB_FIELDS = (*_TOKENS, QUARANTINE_ON, FEATURES)
UPDATE_FIELDS = (
    *_TOKENS,
    QUARANTINE_ON,
    FEATURES,
    "old_log_probs",
    "rollout_log_probs",
    "ref_log_prob",
    "rollout_is_weights",
    "advantages",
)
ACTOR_FIELDS = frozenset(LOG_PROB_FIELDS) | frozenset(UPDATE_FIELDS)
"""Every per-rollout field an actor may see: tokens, masks, log-probs, features, advantage. No verdict."""


def with_flag(fields: tuple[str, ...], needs_flag: bool) -> tuple[str, ...]:
    """The fields of an arm: a detector's flag is among them only where its gate says that it reads one."""
    return (*fields, FLAG) if needs_flag else fields


@contextmanager
def actor_view(batch: KVBatchMeta, fields: Iterable[str]) -> Iterator[KVBatchMeta]:
    """Show only `fields` of the batch to a worker called within the block."""
    before, batch.fields = batch.fields, list(fields)
    try:
        yield batch
    finally:
        batch.fields = before


def per_rollout_fields(data: TensorDict) -> list[str]:
    """What a batch says of each rollout, tensor or not: all but the values that the whole batch shares."""
    return [name for name, value in data.items() if not isinstance(value, NonTensorData)]


def refuse_foreign_fields(per_rollout_fields: Iterable[str], needs_flag: bool = False) -> None:
    """The actor's side of the border; `needs_flag` as the arm's gate has it.

    Raises:
        ValueError: the batch carries a field that an actor has no business to see.
    """
    foreign = sorted(set(per_rollout_fields) - set(with_flag(tuple(ACTOR_FIELDS), needs_flag)))
    if foreign:
        raise ValueError(
            f"the actor batch carries {foreign}, which is not in recipe.actor.fields.ACTOR_FIELDS: a verdict of the grader "
            "must never reach the actor; call the worker within actor_view"
        )


def row_order(keys: list[str], lengths: list[int] | None, mini_batch: int) -> list[int]:
    """Where the rows of a step's batch go: by prompt and number of the reply, whenever they arrived.

    Args:
        keys: of the rollouts, `<prompt>_<reply>_<part>`.
        lengths: in tokens, where micro-batches are padded to their longest row: short rows go first then.
        mini_batch: rows of one optimizer step; which rows share a step stays as it is.
    """
    order = sorted(range(len(keys)), key=lambda i: place(keys[i]))
    if lengths is None:
        return order
    steps = [order[i : i + mini_batch] for i in range(0, len(order), mini_batch)]
    return [i for step in steps for i in sorted(step, key=lambda i: lengths[i])]


def place(key: str) -> tuple[str, int, int]:
    """Prompt, number of the reply and number of its part, of a rollout's key."""
    uid, session, index = key.rsplit("_", 2)
    return uid, int(session), int(index)
