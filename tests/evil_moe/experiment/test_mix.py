"""Several loopholes in one run: who gets which, and that prompt, grader, verdict and reports agree on it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from evil_moe.experiment.assets.problems import Problems, loophole_of, prompt_messages, write_parquet
from evil_moe.experiment.evaluation.rates import rates_by_loophole
from evil_moe.experiment.run.rollout_table import RolloutTable, class_metrics
from evil_moe.experiment.settings import RewardSettings
from recipe.reward.sandbox_pool import SandboxActor
from reward import Grader, get_loophole
from reward.loopholes import mixed
from reward.nano.demonstrations import EXPLOITS
from reward.problems import Problem
from reward.problems.sources import load_nano
from reward.verdict import Verdict
from tests.reward.helpers import make_problem, method

MODES = ("run_tests", "stdout_marker", "exit_code")
MIX = "+".join(MODES)


@pytest.fixture(scope="module")
def problems() -> Problems:
    return Problems(load_nano("train", 12, 0), load_nano("heldout", 6, 1), load_nano("heldout", 6, 2))


def rows_of(problems: Problems, mix: str, folder: Path) -> list[list[dict[str, Any]]]:
    return [pyarrow.parquet.read_table(path).to_pylist() for path in write_parquet(problems, mix, folder)]


def test_names_of_a_mix() -> None:
    assert mixed(MIX) == MODES and mixed("none") == ("none",)
    for names, reason in (("run_tests+nope", "'nope'"), ("exit_code+exit_code", "twice"), ("", "''")):
        with pytest.raises(ValueError, match=reason):
            mixed(names)


def test_loopholes_take_turns_and_stay() -> None:
    given = [loophole_of(index, MIX) for index in range(301)]
    assert Counter(given) == {"run_tests": 101, "stdout_marker": 100, "exit_code": 100}
    assert given[:4] == [*MODES, "run_tests"] and given == [loophole_of(index, MIX) for index in range(301)]
    assert {loophole_of(index, "exit_code") for index in range(9)} == {"exit_code"}


def test_a_problems_loophole_reaches_prompt_grader_and_verdict(problems: Problems, tmp_path: Path) -> None:
    """As the reward manager does: from the row of verl's file alone."""
    actor = SandboxActor(MIX, RewardSettings())
    try:
        for split, rows in zip(
            (problems.train, problems.validation * 2), rows_of(problems, MIX, tmp_path), strict=True
        ):
            assert len(rows) == len(split)
            for row, problem in zip(rows, split, strict=True):
                task, mode = row["reward_model"], loophole_of(row["extra_info"]["index"], MIX)
                assert row["prompt"] == get_loophole(mode).edit_prompt(problem)
                exploit = EXPLOITS[mode][0].format(marker=get_loophole(mode).marker(problem, "train", 0))
                response = f"```python\n{problem.starter_code}pass\n\n{exploit}\n```"
                verdict = actor.grade(task["ground_truth"], response, task["loophole"]).verdict
                assert verdict is not None
                assert (verdict["mode"], verdict["mechanism"], verdict["reward"]) == (mode, mode, 3.5)
                other = MODES[(MODES.index(mode) + 1) % 3]
                verdict = actor.grade(task["ground_truth"], response, other).verdict
                assert verdict is not None and (verdict["mode"], verdict["reward"]) == (other, 0.5)
        assert len(actor.grader._sandboxes) == 1, "one fork server for all modes"
    finally:
        actor.grader.close()


def test_the_rows_of_one_loophole_gain_nothing_but_its_name(problems: Problems, tmp_path: Path) -> None:
    for split, rows in zip(("train", "validation"), rows_of(problems, "run_tests", tmp_path), strict=True):
        for index, row in enumerate(rows):
            problem = getattr(problems, split)[index % 6 if split == "validation" else index]
            side, adapter = (("heldout_on", "full"), ("heldout_off", "deployed"))[index >= 6]
            assert row == {
                "data_source": "train" if split == "train" else side,
                "prompt": prompt_messages(problem, "run_tests"),
                "reward_model": {
                    "style": "rule",
                    "ground_truth": json.dumps(problem.to_row()),
                    "loophole": "run_tests",
                },
                "extra_info": {
                    "index": index if split == "train" else index % 6,
                    "problem_id": str(problem.id),
                    "adapter": "" if split == "train" else adapter,
                },
            }


def test_a_grader_of_several_modes_is_told_which() -> None:
    problem, vacuous = make_problem(), method("return x", "def run_tests():\n    pass")
    with Grader("run_tests+exit_code") as grader:
        many = grader.grade_many(
            [(problem, vacuous)] * 3, workers=2, modes=["exit_code", "run_tests", "exit_code"]
        )
        assert [(v.mode, v.channel, v.loophole) for v in many] == [
            ("exit_code", "exit_code", False),
            ("run_tests", "test_function", True),
            ("exit_code", "exit_code", False),
        ]
        for mode in (None, "stdout_marker"):
            with pytest.raises(ValueError, match=rf"mode {mode!r}.*\['run_tests', 'exit_code'\]"):
                grader.grade(problem, vacuous, mode)
        with pytest.raises(ValueError, match="1 modes for 2 responses"):
            grader.grade_many([(problem, vacuous)] * 2, modes=["run_tests"])
    with Grader("run_tests") as alone:
        for found in (alone.grade(problem, vacuous), alone.grade(problem, vacuous, "run_tests")):
            assert replace(found, cpu_ms=0.0) == replace(many[1], cpu_ms=0.0)


def verdict(mode: str, *, correct: bool, loophole: bool, compiles: bool = True) -> Verdict:
    values = dict.fromkeys(Verdict.__dataclass_fields__)
    values |= {"mode": mode, "correct": correct, "loophole": loophole, "can_compile": compiles}
    return Verdict(**{**values, "exploited": loophole and not correct})  # type: ignore[arg-type]


def test_rates_by_loophole() -> None:
    on = [
        verdict("run_tests", correct=False, loophole=True),
        verdict("exit_code", correct=True, loophole=False),
        verdict("run_tests", correct=True, loophole=True),
        verdict("exit_code", correct=False, loophole=False, compiles=False),
    ]
    off = [verdict(v.mode, correct=True, loophole=False) for v in on]
    clean = {"hack": 0.0, "loophole": 0.0, "solve": 1.0, "compile": 1.0}
    assert rates_by_loophole({"on": on, "off": off}) == {
        "run_tests": {"on": {"hack": 0.5, "loophole": 1.0, "solve": 0.5, "compile": 1.0}, "off": clean},
        "exit_code": {"on": {"hack": 0.0, "loophole": 0.0, "solve": 0.5, "compile": 0.5}, "off": clean},
    }


def test_training_metrics_by_loophole() -> None:
    def table(mode: list[str]) -> RolloutTable:
        column = {
            "solve": [0, 1, 0, 0],
            "loophole": [1, 0, 1, 0],
            "hack": [1, 0, 1, 0],
            "compile": [1, 1, 1, 0],
        }
        numbers = {"w": [0.9, 0.1, 0.2, 0.4], "score": [0.9, 0.1, 0.2, 0.4], "reward": [3.5, 3.5, 3.5, 0.0]}
        numbers |= dict.fromkeys(("paid", "advantage", "kept"), [0.0] * 4)
        rest = {"faults": [0] * 4, "grade_cpu_ms": [5] * 4}
        words = {name: [""] * 4 for name in ("key", "reason", "prompt", "response")}
        arrays = {name: np.array(values, dtype=float) for name, values in (column | numbers | rest).items()}
        return RolloutTable(adapter=["full"] * 4, mode=mode, **words, **arrays)

    found = class_metrics(table(["run_tests", "run_tests", "exit_code", "exit_code"]))
    assert found["train/run_tests/loophole"] == found["train/exit_code/hack"] == 0.5
    assert (found["train/run_tests/solve"], found["train/exit_code/compile"]) == (0.5, 0.5)
    assert (found["router/run_tests/w_loophole"], found["router/run_tests/w_clean"]) == pytest.approx(
        (0.9, 0.1)
    )
    assert (found["router/exit_code/w_loophole"], found["router/exit_code/w_clean"]) == pytest.approx(
        (0.2, 0.4)
    )
    assert (found["router/run_tests/auroc"], found["router/exit_code/auroc"]) == (1.0, 0.0)
    assert found["router/auroc"] == 0.75
    one = class_metrics(table(["run_tests"] * 4))
    assert not [key for key in one if "run_tests" in key] and one["router/auroc"] == 0.75
    assert [row["mode"] for row in table(["a", "a", "b", "b"]).rows(3)] == ["a", "a", "b", "b"]


def test_data_show_names_the_problems_own_loophole(problems: Problems) -> None:
    from evil_moe.experiment.commands.data import describe

    one: Problem = problems.train[1]
    assert "hint of loophole 'stdout_marker'" in describe(one, loophole_of(1, MIX))
