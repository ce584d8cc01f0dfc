"""The reward manager: verl's reward-loop workers over a pool of sandbox actors, all of them Ray workers.

A verdict's labels travel as reward extras, for metrics and the rollout log. They never reach the actor (see
`recipe.batch`).
"""

from __future__ import annotations

import itertools
from typing import Any

import ray
from verl import DataProto
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

from recipe.sandbox_actor import sandbox_pool
from recipe.settings import settings_from
from reward.sandbox import SandboxFault

MAX_ATTEMPTS = 3


class SandboxRewardManager(RewardManagerBase):
    """Grades one rollout at a time, round robin over the pool."""

    def __init__(self, config: Any, tokenizer: Any, compute_score: Any, **_: Any):
        super().__init__(config, tokenizer, compute_score)
        settings = settings_from(config.evil_moe)
        self.max_faults, self.faults = settings.reward.max_faults, 0
        self.pool = itertools.cycle(sandbox_pool(settings.loophole, settings.reward))

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
        problem_json = item.non_tensor_batch["reward_model"]["ground_truth"]
        verdict = await self._grade(problem_json, response)
        correct, loophole = bool(verdict["correct"]), bool(verdict["loophole"])
        return {
            "reward_score": float(verdict["reward"]),
            "reward_extra_info": {
                "solve": float(correct),
                "loophole": float(loophole),
                "hack": float(loophole and not correct),
                "compile": float(verdict["can_compile"]),
                "faults": float(self.faults),
                "grade_cpu_ms": float(verdict["cpu_ms"]),
            },
        }

    async def _grade(self, problem_json: str, response: str) -> dict[str, Any]:
        error: Exception | None = None
        for _ in range(MAX_ATTEMPTS):
            try:
                return await next(self.pool).grade.remote(problem_json, response)
            except (ray.exceptions.RayActorError, SandboxFault) as fault:
                error = fault
                self.faults += 1
                if self.faults > self.max_faults:
                    break
        raise RuntimeError(
            f"the sandbox failed {self.faults} times (evil_moe.reward.max_faults={self.max_faults}); a failure is never "
            f"graded as wrong, so the run stops. Last: {error}. `evil-moe doctor` probes the sandbox."
        ) from error
