"""The reward manager: verl's reward-loop workers over a pool of sandbox actors, all of them Ray workers.

A verdict's labels travel as reward extras, for metrics and the rollout log. They never reach the actor (see
`recipe.actor.fields`).
"""

from __future__ import annotations

from typing import Any

from verl import DataProto
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

from evil_moe.experiment.monitor_settings import MONITORED
from evil_moe.experiment.settings import settings_from
from recipe.reward.sandbox_pool import SandboxPool
from reward.monitors import is_positive, needs_labels


class SandboxRewardManager(RewardManagerBase):
    """Grades rollouts as they arrive, each on the first sandbox of the pool that is free."""

    def __init__(self, config: Any, tokenizer: Any, compute_score: Any, **_: Any):
        super().__init__(config, tokenizer, compute_score)
        settings = settings_from(config.evil_moe)
        self.label = settings.monitor.label if settings.monitor.kind != "none" else "loophole"
        self.pool = SandboxPool(settings.loophole, settings.reward, labels=needs_labels(self.label))

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        """Reward and verdict of the last turn of `data`.

        Raises:
            RuntimeError: more sandbox faults than `evil_moe.reward.max_faults`, or one rollout that no attempt
                could grade.
        """
        item = data[-1]
        response_ids = item.batch["responses"]
        length = int(item.batch["attention_mask"][-response_ids.shape[-1] :].sum())
        response = self.tokenizer.decode(response_ids[:length], skip_special_tokens=True)
        task = item.non_tensor_batch["reward_model"]
        graded = await self.pool.grade(task["ground_truth"], response, task["loophole"])
        verdict = graded.verdict
        assert verdict is not None
        correct, loophole = bool(verdict["correct"]), bool(verdict["loophole"])
        return {
            "reward_score": float(verdict["reward"]),
            "reward_extra_info": {
                "mode": verdict["mode"],
                "reason": verdict["reason"] or "",  # a text in every rollout, as the queue wants it
                "solve": float(correct),
                "loophole": float(loophole),
                "hack": float(loophole and not correct),
                "compile": float(verdict["can_compile"]),
                MONITORED: float(is_positive(verdict, self.label)),
                "faults": float(graded.faults),
                "grade_cpu_ms": float(verdict["cpu_ms"]),
            },
        }
