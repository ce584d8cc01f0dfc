"""The sandbox as Ray actors. Kept apart from verl, whose imports would cost each actor ten seconds."""

from __future__ import annotations

import json
from typing import Any

import ray

from recipe.settings import RewardSettings
from reward.grader import Grader
from reward.problems import Problem
from reward.sandbox import SandboxLimits
from reward.verdict import RewardConfig


def limits_from(settings: RewardSettings) -> SandboxLimits:
    """The sandbox's limits as configured."""
    return SandboxLimits(
        cpu_s=settings.cpu_s,
        wall_s=settings.wall_s,
        memory_mib=settings.memory_mib,
        allow_weak=settings.allow_weak,
    )


class SandboxActor:
    """One grader with its own fork server."""

    def __init__(self, mode: str, settings: RewardSettings):
        self.grader = Grader(
            mode,
            limits=limits_from(settings),
            reward=RewardConfig(compile=settings.compile, pays=settings.pays),
        )

    def grade(self, problem_json: str, response: str) -> dict[str, Any]:
        """Verdict of one response as a flat row.

        Raises:
            SandboxFault: the sandbox itself failed, several times.
        """
        return self.grader.grade(Problem.from_row(json.loads(problem_json)), response).to_row()


def sandbox_pool(mode: str, settings: RewardSettings) -> list[Any]:
    """Handles of the run's sandbox actors; the first caller starts them, and Ray restarts one that dies."""
    remote = ray.remote(SandboxActor)
    return [
        remote.options(
            name=f"evil_moe_sandbox_{mode}_{i}", get_if_exists=True, num_cpus=0, max_restarts=-1
        ).remote(mode, settings)
        for i in range(settings.workers)
    ]
