"""A step's rollouts in verl's transfer queue: columns of our own, and all that is kept of a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transfer_queue as tq
from tensordict import TensorDict
from torch import Tensor
from transfer_queue import KVBatchMeta

from evil_moe.experiment.run.rollout_table import RolloutTable
from recipe.actor.fields import PAID, SCORE, WEIGHT, place


def extra_fields(batch: KVBatchMeta) -> list[dict[str, Any]]:
    """The agent loop's extra fields per rollout, the verdict among them; for the trainer only."""
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["extra_fields"])
    return [getattr(fields, "data", fields) for fields in data["extra_fields"]]


def put_column(batch: KVBatchMeta, name: str, values: list[float]) -> None:
    """One number per rollout, as a field `[B, 1]`."""
    fields = TensorDict({name: torch.tensor(values).unsqueeze(1)}, batch_size=len(batch))
    tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)


def column(values: Tensor) -> Tensor:
    """`[B]` of a `[B, 1]` field, which the queue may return as a jagged tensor."""
    return torch.cat([row.reshape(-1) for row in values.unbind()]).float()


def read_rollouts(batch: KVBatchMeta, decode: Callable[[Tensor], list[str]], monitored: bool) -> RolloutTable:
    """A step's rollouts after the update, padding left out, in the order of their prompts and sessions."""
    names = ["prompts", "responses", "rm_scores", "advantages", "response_mask", WEIGHT, SCORE]
    data = tq.kv_batch_get(
        keys=batch.keys,
        partition_id=batch.partition_id,
        select_fields=[*names, *([PAID] if monitored else [])],
    )
    extra = extra_fields(batch)
    keep = [i for i, tag in enumerate(batch.tags) if not tag.get("is_padding", False)]
    keep.sort(key=lambda i: place(batch.keys[i]))
    verdicts = [extra[i]["reward_extra_info"] for i in keep]
    prompts, responses = decode(data["prompts"]), decode(data["responses"])
    scores, advantages, masks = (data[name].unbind() for name in ("rm_scores", "advantages", "response_mask"))
    reward = np.array([float(scores[i].sum()) for i in keep])
    return RolloutTable(
        key=[batch.keys[i] for i in keep],
        adapter=[extra[i]["adapter"] for i in keep],
        mode=[verdict["mode"] for verdict in verdicts],
        reason=[verdict["reason"] for verdict in verdicts],
        prompt=[prompts[i] for i in keep],
        response=[responses[i] for i in keep],
        reward=reward,
        paid=column(data[PAID]).numpy()[keep] if monitored else reward,
        advantage=np.array([float(advantages[i][0]) for i in keep]),
        kept=np.array([bool(masks[i].any()) for i in keep]),
        w=column(data[WEIGHT]).numpy()[keep],
        score=column(data[SCORE]).numpy()[keep],
        **{name: np.array([verdict[name] for verdict in verdicts]) for name in RolloutTable.LABELS},
    )
