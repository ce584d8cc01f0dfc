"""The sandbox as Ray actors, and the pool of them that a reward worker grades with.

Three things fail on their own and are told apart from a wrong answer: a fork server (its client starts another and
repeats the job), an actor (Ray starts another; the pool repeats the case), and an actor that hangs (the pool kills it,
which makes it the second kind). Each is counted, by all reward workers of a run together, and past `max_faults` the
run stops. Kept apart from verl, whose imports would cost each actor ten seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import time
import uuid
from dataclasses import dataclass
from typing import Any

import ray

from evil_moe.experiment.grading import limits_from, terms_from
from evil_moe.experiment.settings import RewardSettings
from reward.grader import Grader
from reward.problems import Problem
from reward.sandbox import SandboxFault

MAX_ATTEMPTS = 3
PATIENCE_S = 600.0  # far above the time that a case and those queued before it can take within their limits
REVIVAL_S = 60.0
CLOSE_S = 20.0
_SANDBOX_NAME = "evil_moe_sandbox_"


@dataclass(frozen=True)
class Graded:
    """verdict: the flat row, None if the sandbox failed for good, which ``reason`` then tells. faults: failures of the
    sandbox on this case, repaired ones included."""

    verdict: dict[str, Any] | None
    faults: int
    reason: str = ""


@functools.lru_cache(maxsize=256)  # a problem comes with every rollout of its group
def _problem(problem_json: str) -> Problem:
    return Problem.from_row(json.loads(problem_json))


class SandboxActor:
    """One grader with its own fork server, for one mode or a mix of them; its verdicts have the benchmark's labels, too, if
    asked."""

    def __init__(self, mode: str, settings: RewardSettings, labels: bool = False):
        self.grader = Grader(
            mode,
            limits=limits_from(settings),
            reward=terms_from(settings),
            labels=labels,
            reply=settings.reply,
        )

    def ready(self) -> bool:
        """True, once the actor runs."""
        return True

    def grade(self, problem_json: str, response: str, mode: str | None = None) -> Graded:
        """Grade one response, in one of the modes of a mix. Raises ValueError for a broken problem or mode."""
        before = self.grader.faults
        try:
            verdict = self.grader.grade(_problem(problem_json), response, mode).to_row()
        except SandboxFault as fault:
            return Graded(None, self.grader.faults - before, str(fault))
        return Graded(verdict, self.grader.faults - before)

    def close(self) -> None:
        """End the fork server and remove its scratch folder."""
        self.grader.close()


def close_sandboxes() -> None:
    """End the sandbox actors of this job, cleaned up. Left to its end, Ray would kill them, and their servers' keepers
    with them, before either could."""
    for name in ray.util.list_named_actors():
        if name.startswith(_SANDBOX_NAME):
            # One that has died (ValueError: its name is gone) or hangs cannot; a failure of the run must not be hidden.
            with contextlib.suppress(ray.exceptions.RayError, ValueError):
                actor = ray.get_actor(name)
                try:
                    ray.get(actor.close.remote(), timeout=CLOSE_S)
                finally:
                    ray.kill(actor)


class FaultCounter:
    """Faults of a run since it started, over all its reward workers.

    Each worker tells its own sum, and what all had when it last heard: so a counter that Ray had to start again knows
    what the one before it knew, and a call that is made twice counts once.
    """

    def __init__(self) -> None:
        self.by_worker: dict[str, int] = {}
        self.heard = 0

    def add(self, worker: str, own: int, heard: int) -> int:
        """The run's total, given a worker's own sum and the last total that it was told."""
        self.by_worker[worker] = own
        self.heard = max(self.heard, heard, sum(self.by_worker.values()))
        return self.heard


class SandboxPool:
    """One reward worker's view of the run's sandbox actors: the first caller starts them, all share them."""

    def __init__(self, mode: str, settings: RewardSettings, labels: bool = False):
        self.max_faults = settings.max_faults
        shared: dict[str, Any] = {"get_if_exists": True, "num_cpus": 0, "max_restarts": -1}
        counter = ray.remote(FaultCounter).options(
            name=f"evil_moe_faults_{mode}", max_task_retries=-1, **shared
        )
        self.counter = counter.remote()
        self.worker, self.faults, self.faults_of_all = uuid.uuid4().hex, 0, 0
        actor = ray.remote(SandboxActor)
        self.actors = [
            actor.options(name=f"{_SANDBOX_NAME}{mode}_{i}", **shared).remote(mode, settings, labels)
            for i in range(settings.workers)
        ]
        self._free: asyncio.Queue[Any] = asyncio.Queue()
        for handle in self.actors:
            self._free.put_nowait(handle)

    async def grade(self, problem_json: str, response: str, mode: str | None = None) -> Graded:
        """Grade one case on the first actor that is free, in one of the modes of a mix; the verdict is never None.

        Raises:
            RuntimeError: more faults in the run than `evil_moe.reward.max_faults`, or a case that no attempt could
                grade.
            ValueError: the problem is broken, or the mode is not one of the pool's.
        """
        faults = 0
        for _ in range(MAX_ATTEMPTS):
            actor = await self._free.get()
            try:
                graded = await self._attempt(actor, problem_json, response, mode)
            finally:
                self._free.put_nowait(actor)
            faults += graded.faults
            if graded.faults:
                await self._count(graded)
            if graded.verdict is not None:
                return Graded(graded.verdict, faults)
        raise RuntimeError(_message(f"failed in {MAX_ATTEMPTS} attempts at one rollout", graded.reason))

    async def _attempt(self, actor: Any, *case: str | None) -> Graded:
        try:
            return await asyncio.wait_for(actor.grade.remote(*case), PATIENCE_S)
        except TimeoutError:
            ray.kill(actor, no_restart=False)
            reason = f"an actor did not answer in {PATIENCE_S:.0f} s and was killed"
        except ray.exceptions.RayActorError as error:
            reason = f"an actor died: {error}"
        await self._revive(actor, reason)
        return Graded(None, 1, reason)

    async def _revive(self, actor: Any, reason: str) -> None:
        """Wait until Ray has replaced the actor; until then calls to it fail at once."""
        deadline = time.monotonic() + REVIVAL_S
        while True:
            try:
                await asyncio.wait_for(actor.ready.remote(), REVIVAL_S)
                return
            except (TimeoutError, ray.exceptions.RayActorError) as error:
                if time.monotonic() > deadline:
                    raise RuntimeError(_message(f"was not replaced in {REVIVAL_S:.0f} s", reason)) from error
                await asyncio.sleep(0.2)

    async def _count(self, graded: Graded) -> None:
        self.faults += graded.faults
        heard = max(self.faults_of_all, self.faults)
        self.faults_of_all = await self.counter.add.remote(self.worker, self.faults, heard)
        if self.faults_of_all > self.max_faults:
            what = f"failed {self.faults_of_all} times (evil_moe.reward.max_faults={self.max_faults})"
            raise RuntimeError(_message(what, graded.reason))


def _message(what: str, reason: str) -> str:
    last = f"Last: {reason}. " if reason else ""
    return f"the sandbox {what}; a failure is never graded as wrong, so the run stops. {last}`evil-moe doctor` probes the sandbox."
