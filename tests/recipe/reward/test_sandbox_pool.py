"""The pool of sandbox actors: what dies is replaced, what failed is repeated and counted, and nothing is graded wrong
for it."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from evil_moe.experiment.run.rollout_table import RolloutTable, class_metrics
from evil_moe.experiment.settings import EvilMoESettings, RewardSettings, settings_from
from recipe.reward import sandbox_pool
from recipe.reward.sandbox_pool import FaultCounter, Graded, SandboxActor, SandboxPool, close_sandboxes
from reward import Sandbox, SandboxFault
from tests.conftest import ROOT
from tests.reward.helpers import descendants, make_problem, method

Run = Callable[[Coroutine[Any, Any, Any]], Any]
PROBLEM = json.dumps(make_problem().to_row())
RIGHT, WRONG = method("return 2 * x"), method("return x")
SLOW = method("import time; time.sleep(0.3); return 2 * x")


def test_an_actor_tells_faults_from_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    actor = SandboxActor("none", RewardSettings())
    try:
        good = actor.grade(PROBLEM, RIGHT)
        assert good.verdict is not None and good.verdict["correct"] and good.faults == 0
        server = actor.grader._sandboxes[0].server_pid
        assert server is not None
        os.kill(server, signal.SIGKILL)
        repaired = actor.grade(PROBLEM, WRONG)
        assert repaired.verdict is not None and not repaired.verdict["correct"] and repaired.faults == 1
        assert actor.grade(PROBLEM, RIGHT).faults == 0, "a fault is counted once"

        def broken(self: Sandbox, *_: object) -> None:
            self.faults += 3
            raise SandboxFault("no fork")

        monkeypatch.setattr(Sandbox, "run", broken)
        assert actor.grade(PROBLEM, RIGHT) == Graded(None, 3, "no fork")
    finally:
        actor.grader.close()


def test_what_crosses_the_border_pickles() -> None:
    settings = RewardSettings(workers=3)
    graded = Graded({"correct": True, "reward": 3.5, "fault": None}, 2, "why")
    for thing in (settings, graded, Graded(None, 1, "why"), ValueError("setup_code of problem 1 raises")):
        again = pickle.loads(pickle.dumps(thing))
        assert again == thing or again.args == thing.args
    for cls in (SandboxActor, FaultCounter):
        assert pickle.loads(pickle.dumps(cls)) is cls


@pytest.mark.parametrize("change", [{"workers": 0}, {"max_faults": -1}])
def test_settings_that_cannot_grade_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        settings_from({"reward": change})
    assert EvilMoESettings().reward.max_faults > 0


def test_the_metric_is_the_sum_over_the_steps_rollouts() -> None:
    column = np.zeros(3)
    labels: dict[str, Any] = dict.fromkeys(
        (*RolloutTable.LABELS, "reward", "paid", "advantage", "kept", "w", "score"), column
    )
    labels["faults"] = np.array([0.0, 2.0, 1.0])
    names = ("key", "adapter", "mode", "reason", "prompt", "response")
    words: dict[str, Any] = {name: ["full"] * 3 for name in names}
    table = RolloutTable(**words, **labels)
    assert class_metrics(table)["sandbox/faults"] == 3


# ------------------------------------------------------------------------------------------------ a real, small Ray


@pytest.fixture(scope="module")
def small_ray() -> Iterator[None]:
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        configure_logging=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
    )
    yield
    ray.shutdown()


@pytest.fixture
def run(small_ray: None) -> Iterator[Run]:
    """One event loop, as in a reward worker."""
    with asyncio.Runner() as runner:
        yield runner.run


def actor_pid(handle: Any) -> int:
    """The process of an actor of this machine."""
    return int(ray.get(handle.__ray_call__.remote(lambda self: os.getpid())))


def fork_servers(pid: int) -> set[int]:
    return {
        child
        for child in descendants(pid)
        if b"reward.sandbox" in Path(f"/proc/{child}/cmdline").read_bytes()
    }


async def grade_and(pool: SandboxPool, response: str, harm: Any, count: int = 4) -> list[Graded]:
    """Grade ``count`` copies, and do harm once they are under way."""
    tasks = [asyncio.create_task(pool.grade(PROBLEM, response)) for _ in range(count)]
    await asyncio.sleep(0.5)
    harm()
    return await asyncio.gather(*tasks)


@pytest.mark.slow
def test_what_dies_is_replaced_and_its_case_repeated(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = RewardSettings(workers=2, max_faults=20)
    pool = SandboxPool("none", settings)
    found = run(grade_and(pool, RIGHT, lambda: None)) + run(grade_and(pool, WRONG, lambda: None))
    assert [g.verdict["correct"] for g in found if g.verdict] == [True] * 4 + [False] * 4

    def check(found: list[Graded], faults: range, total: int) -> int:
        assert all(g.verdict is not None and g.verdict["correct"] for g in found)
        assert sum(g.faults for g in found) in faults
        new = ray.get(pool.counter.add.remote("nobody", 0, 0))
        assert new - total == sum(g.faults for g in found), "counted once, over all workers"
        return int(new)

    first = pool.actors[0]
    server = max(fork_servers(actor_pid(first)))  # the youngest; the other is its keeper
    total = check(run(grade_and(pool, SLOW, lambda: os.kill(server, signal.SIGKILL))), range(0, 2), 0)
    died = actor_pid(first)
    total = check(run(grade_and(pool, SLOW, lambda: os.kill(died, signal.SIGKILL))), range(1, 3), total)
    assert actor_pid(first) != died
    monkeypatch.setattr(sandbox_pool, "PATIENCE_S", 4.0)
    stopped = actor_pid(first)
    total = check(run(grade_and(pool, SLOW, lambda: os.kill(stopped, signal.SIGSTOP))), range(1, 3), total)
    assert actor_pid(first) != stopped
    counter = actor_pid(pool.counter)
    os.kill(counter, signal.SIGKILL)  # the one that Ray starts in its place goes on from its count
    again = actor_pid(first)
    total = check(run(grade_and(pool, SLOW, lambda: os.kill(again, signal.SIGKILL))), range(1, 3), total)
    assert actor_pid(pool.counter) != counter
    other = SandboxPool("none", settings)
    assert [actor_pid(a) for a in other.actors] == [actor_pid(a) for a in pool.actors], (
        "one pool for all workers"
    )
    assert run(other.grade(PROBLEM, RIGHT)).faults == 0 and total >= 2


@pytest.mark.slow
def test_at_the_end_of_a_job_no_scratch_folder_is_left(run: Run) -> None:
    pool = SandboxPool("eq_override", RewardSettings(workers=2))
    run(grade_and(pool, RIGHT, lambda: None))
    ask = [
        handle.__ray_call__.remote(lambda self: self.grader._sandboxes[0]._scratch) for handle in pool.actors
    ]
    folders = [Path(folder) for folder in ray.get(ask)]
    assert all(folder.is_dir() for folder in folders)
    close_sandboxes()
    assert not any(folder.exists() for folder in folders)


@pytest.mark.slow
def test_past_the_limit_and_without_a_replacement_the_run_stops(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = SandboxPool("run_tests", RewardSettings(workers=1, max_faults=0))
    pid = actor_pid(pool.actors[0])
    with pytest.raises(
        RuntimeError, match=r"failed \d times \(evil_moe\.reward\.max_faults=0\); a failure is never graded"
    ):
        run(grade_and(pool, SLOW, lambda: os.kill(pid, signal.SIGKILL), count=1))
    pool = SandboxPool("run_tests", RewardSettings(workers=1, max_faults=20))
    monkeypatch.setattr(sandbox_pool, "REVIVAL_S", 1.0)
    with pytest.raises(RuntimeError, match="was not replaced in 1 s"):
        run(grade_and(pool, SLOW, lambda: ray.kill(pool.actors[0], no_restart=True), count=1))
    with pytest.raises(ValueError, match="setup_code of problem 1 raises"):
        broken = json.dumps(make_problem(setup_code="1 / 0").to_row())
        monkeypatch.setattr(sandbox_pool, "REVIVAL_S", 60.0)
        run(SandboxPool("none", RewardSettings(workers=1)).grade(broken, RIGHT))
