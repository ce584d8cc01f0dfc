"""Filters, splits and the conversion of a hub data set."""

import json
import sys
import types

import pytest

from reward import SandboxLimits, load_problems
from reward.problems import leetcode, splits
from reward.problems.filters import (
    Dropped,
    by_difficulty,
    by_prompt_length,
    by_solution,
    prompt_characters,
    without_repeats,
)
from reward.problems.marks import limit_lines
from reward.problems.sources import load_nano, load_source
from tests.reward.helpers import make_problem

PAIR = ("assert Solution().double(x = 1) == 2",)


def solved(problem_id, code, *asserts, **changes):
    return make_problem(*asserts or PAIR, id=problem_id, canonical_solution=code, **changes)


def body(line):
    return f"class Solution:\n    def double(self, x):\n        {line}\n"


# ------------------------------------------------------------------------------------------------------ filters


def test_by_solution_keeps_what_passes_in_time_and_says_why_it_drops_the_rest():
    busy = "import time\n        end = time.process_time() + 0.6\n        while time.process_time() < end: pass\n        return 2 * x"
    problems = [
        solved("right", body("return 2 * x")),
        solved("slow", body(busy)),
        solved("half", body("return 2 if x == 1 else 0"), *PAIR, "assert Solution().double(x = 2) == 4"),
        solved("syntax", "class Solution: ("),
        solved("endless", body("while True: pass")),
        solved("setup", body("return 2 * x"), setup_code="raise ValueError('broken')"),
        solved("none", None),
        solved("exit", "import os\nos._exit(0)"),
        solved("last", body("return x + x")),
    ]
    seen = []
    found = by_solution(problems, SandboxLimits(cpu_s=1, wall_s=10), 0.5, 2, lambda *at: seen.append(at))
    assert [p.id for p in found.kept] == ["right", "last"]
    reasons = {item.id: item.reason for item in found.dropped}
    for name, words in (
        ("slow", "s of CPU, more than 0.50"),
        ("half", "50% of the asserts hold"),
        ("syntax", "does not compile"),
        ("endless", "0% of the asserts hold"),
        ("setup", "setup_code of problem 'setup' raises"),
        ("none", "there is none"),
        ("exit", "0% of the asserts hold"),
    ):
        assert words in reasons.pop(name)
    assert not reasons and seen == [(n, 9) for n in range(1, 10)]


def test_a_slow_solution_gives_its_problem_a_limit_of_its_own():
    def busy(seconds, answer="2 * x"):
        return body(
            "import time\n        end = time.process_time() + "
            f"{seconds}\n        while time.process_time() < end: pass\n        return {answer}"
        )

    limits = SandboxLimits(cpu_s=1, wall_s=10)
    problems = [
        solved("quick", body("return 2 * x")),
        solved("slow", busy(0.25)),
        solved("stopped at first", busy(1.05)),
        solved("wrong", busy(0.12, "x")),
        solved("has one", busy(0.2), cpu_s=9.0),
    ]
    found = by_solution(problems, limits, 0.2, max_cpu_s=60)
    own = {problem.id: problem.cpu_s for problem in found.kept}
    assert own.pop("quick") is None and 2 <= own.pop("slow") <= 9 and own.pop("has one") == 9
    assert 6 <= own.pop("stopped at first") <= 40 and not own
    assert "wrong value" in found.dropped[0].reason
    assert any(line.startswith("3 problems with a limit of its own") for line in limit_lines(found.kept))
    assert by_solution(found.kept[:2], limits, 0.2).kept == found.kept[:2], (
        "a file that was prepared stays as it is"
    )
    [dropped] = by_solution(problems[4:], limits, 0.01, max_cpu_s=9).dropped
    assert "s of CPU, more than 0.09" in dropped.reason
    for ceiling in (0, 1e9):
        with pytest.raises(ValueError, match="max_cpu_s"):
            by_solution([], SandboxLimits(), max_cpu_s=ceiling)


@pytest.mark.parametrize("share", [0, -1, 1.5, float("nan")])
def test_by_solution_refuses_a_share_that_means_nothing(share):
    with pytest.raises(ValueError, match="cpu_share"):
        by_solution([], SandboxLimits(), share)


def test_filters_that_need_no_sandbox():
    problems = [
        make_problem(id=1, difficulty="Easy", question="a b"),
        make_problem(id=2, difficulty="hard", question="c"),
        make_problem(id=3, difficulty=None, question="a\n b"),
    ]
    found = by_difficulty(problems, ["medium", "HARD"])
    assert [p.id for p in found.kept] == [2]
    assert found.dropped[1] == Dropped(3, "difficulty", "difficulty: none is not one of medium, HARD")
    found = without_repeats(problems)
    assert [p.id for p in found.kept] == [1, 2] and "same question as problem 1" in found.dropped[0].reason
    length = prompt_characters(problems[0])
    assert by_prompt_length(problems, length, prompt_characters, "characters").dropped == []
    found = by_prompt_length(problems, length - 1, prompt_characters, "characters")
    assert found.kept == [] and f"{length} characters, more than {length - 1}" in found.dropped[0].reason
    words = by_prompt_length(problems, 3, lambda p: len(p.question), "tokens")
    assert [p.id for p in words.kept] == [1, 2], "the given measure decides"


# ------------------------------------------------------------------------------------------------------ splits


def test_a_split_depends_on_the_id_alone():
    fractions = (0.8, 0.1, 0.1)
    problems = [make_problem(id=n) for n in range(300)]
    found = splits.split_problems(problems, fractions, 0)
    assert sum(map(len, found.values())) == 300 and {p.id for s in found.values() for p in s} == set(
        range(300)
    )
    assert 210 < len(found["train"]) < 270 and min(map(len, found.values())) > 10
    fewer = splits.split_problems(problems[::3], fractions, 0)
    for name in splits.SPLITS:
        assert [p.id for p in fewer[name]] == [p.id for p in found[name] if p.id % 3 == 0]
    assert splits.split_problems(problems, fractions, 1) != found
    assert all(splits.split_of(str(n), fractions, 0) == splits.split_of(n, fractions, 0) for n in range(50))
    # recorded: another release must not move problems between splits
    assert [splits.split_of(n, (0.5, 0.25, 0.25), 0)[0] for n in range(12)] == RECORDED


RECORDED = list("vhvtthvtvtth")


@pytest.mark.parametrize("fractions", [(1, 0), (0.5, 0.6, -0.1), (0.5, 0.2, 0.2)])
def test_fractions_are_checked(fractions):
    with pytest.raises(ValueError, match="sum to 1"):
        splits.split_problems([], fractions, 0)
    assert list(splits.split_problems([make_problem()], (0, 0, 1), 0).items())[2][1]


def test_a_folder_of_splits_and_its_manifest(tmp_path, monkeypatch):
    found = {
        "train": [make_problem(id=1), make_problem(id=2)],
        "validation": [],
        "heldout": [make_problem(id=3)],
    }
    dropped = [Dropped(9, "difficulty", "difficulty: easy"), Dropped(8, "difficulty", "difficulty: easy")]
    folder = tmp_path / "new" / "set"
    manifest = splits.write_splits(folder, found, dropped, {"source": "here"})
    assert sorted(path.name for path in folder.iterdir()) == [
        "dropped.jsonl", "heldout.jsonl.gz", "manifest.json", "train.jsonl.gz",
    ]  # fmt: skip
    assert json.loads((folder / "manifest.json").read_text()) == manifest
    assert manifest["source"] == "here" and manifest["dropped"] == {"difficulty": 2}
    train = folder / "train.jsonl.gz"
    assert load_problems(train) == found["train"]
    assert splits.check_manifest(train, found["train"]) == manifest["splits"]["train"]["sha256"]
    with pytest.raises(ValueError, match=r"train\.jsonl\.gz: has checksum .* changed after it was prepared"):
        splits.check_manifest(train, found["train"][:1])
    assert splits.check_manifest(folder / "other.jsonl", []) is None
    assert splits.check_manifest(tmp_path / "other.jsonl", []) is None
    with pytest.raises(ValueError, match="already"):
        splits.write_splits(folder, found, [], {})
    monkeypatch.setattr("pathlib.Path.rename", lambda *a: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        splits.write_splits(tmp_path / "new" / "half", found, [], {})
    assert list((tmp_path / "new").iterdir()) == [folder]


# ------------------------------------------------------------------------------------------------------ the hub


def hub_row(**changes):
    """A row of the data set's form, written for this test."""
    return {
        "question_id": 4001,
        "task_id": "double-it",
        "difficulty": "Medium",
        "problem_description": "Return twice the number.",
        "starter_code": "class Solution:\n    def double(self, x: int) -> int:\n        ",
        "prompt": "from typing import *\n",
        "completion": body("return 2 * x"),
        "entry_point": "Solution().double",
        "test": "def check(candidate):\n    assert candidate(x = 1) == 2\n    assert candidate(x = -3) == -6\n",
        "input_output": [{"input": "x = 5", "output": "10"}],
        **changes,
    }


def test_a_hub_row_becomes_a_problem_that_its_solution_solves():
    problem = leetcode.convert_row(hub_row())
    assert problem.id == 4001 and problem.difficulty == "medium" and problem.dataset == "leetcode"
    assert problem.gt_answer == (
        "assert Solution().double(x=1) == 2",
        "assert Solution().double(x=-3) == -6",
    )
    assert problem.starter_code.startswith("class Solution:") and "double" in problem.prompt[-1]["content"]
    text = "".join(message["content"] for message in problem.prompt)
    assert text.count("and should pass all tests") == 1, "the place of the hints"
    without_test = leetcode.convert_row(hub_row(test=None))
    assert without_test.gt_answer == ("assert Solution().double(x = 5) == 10",)
    found = by_solution([problem, without_test], SandboxLimits(wall_s=10))
    assert found.dropped == []


def test_asserts_of_other_shapes_keep_their_helpers():
    test = (
        "def helper(): pass\n"
        "def check(f):\n    x = 1\n    assert is_same_list(f(x = list_node([1])), list_node([2]))\n"
        "    assert f(x = '\u00e9 candidate') == 'f'\n"
    )
    problem = leetcode.convert_row(hub_row(test=test))
    assert problem.gt_answer == (
        "assert is_same_list(Solution().double(x=list_node([1])), list_node([2]))",
        "assert Solution().double(x='\u00e9 candidate') == 'f'",
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"entry_point": None}, "'entry_point' is missing"),
        ({"test": "def check(:"}, "'test'"),
        ({"test": "x = 1"}, "no function check"),
        ({"test": "def check(a, b): assert a()"}, "no function check"),
        ({"test": None, "input_output": []}, "cannot be graded"),
        ({"test": "", "input_output": None}, "cannot be graded"),
        ({"test": "def check(c):\n    assert c(1) == c(2)"}, "calls Solution().double 2 times"),
        ({"entry_point": "1 +"}, "'entry_point'"),
        ({"prompt": "import ("}, "'setup_code'"),
        ({"question_id": 1.5}, "'id'"),
    ],
)
def test_hub_rows_that_cannot_be_converted(changes, words):
    found = leetcode.convert_rows([hub_row(), hub_row(**changes)], "some/set")
    assert len(found.kept) == 1 and found.dropped[0].kind == "not converted"
    assert "some/set, row 1" in found.dropped[0].reason and words in found.dropped[0].reason


def test_a_hub_that_cannot_be_reached_is_one_error(monkeypatch):
    def refuse(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=refuse))
    with pytest.raises(
        ValueError, match=r"cannot load split 'test' of newfacade.*ConnectionError: no route.*\.jsonl"
    ):
        load_source("leetcode:test", 0, 0)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match="pip install datasets"):
        load_source("leetcode", 0, 0)


def test_sources(monkeypatch, tmp_path):
    rows = [hub_row(), hub_row(test="broken(")]
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=lambda *a, **k: rows))
    source = load_source("leetcode", 0, 0)
    assert len(source.problems) == 1 and len(source.dropped) == 1 and "split train" in source.name
    assert load_source("nano", 5, 1).problems == load_nano("train", 5, 1)
    assert not {p.extra["family"] for p in load_nano("train", 40, 0)} & {
        p.extra["family"] for p in load_nano("heldout", 40, 0)
    }
    with pytest.raises(FileNotFoundError, match="no such problem file"):
        load_source(str(tmp_path / "absent.jsonl"), 0, 0)
