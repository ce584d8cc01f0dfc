"""How large answers may be: as large as what is expected of them, beside a stated limit."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from reward import Grader, Problem, SandboxLimits
from tests.reward.helpers import fenced, make_problem, method

# (what is expected for x, an expression over its number; the number; how often it is asked)
LARGE = {
    "a dict": ("{i: str(i) for i in range(x)}", 60_000, 1),
    "lists in a list": ("[[10 ** 15 + i] * 300 for i in range(x)]", 250, 1),
    "a text of 5 MB": ("'ab' * x", 2_500_000, 3),
    "a text of other letters": ("'\\u65e5' * x", 500_000, 4),
}


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader("none") as one:
        assert one.grade(make_problem(), method("return 2 * x")).correct
        yield one


@pytest.mark.parametrize("name", LARGE)
def test_a_large_answer_is_right_and_another_is_not(grader: Grader, name: str) -> None:
    expected, size, times = LARGE[name]
    asserts = [f"assert Solution().double(x = {size}) == {expected.replace('x', str(size))}"] * times
    problem = make_problem(*asserts)
    right = grader.grade(problem, method(f"return {expected}"))
    assert right.correct, right.reason
    assert not grader.grade(problem, method(f"x -= 1; return {expected}")).correct


def test_the_limit_follows_literals() -> None:
    text = "x" * 200_000
    problem = make_problem(*[f"assert Solution().double(x = {n}) == {text!r}" for n in range(4)])
    with Grader("none", limits=SandboxLimits(output_kib=64)) as grader:
        assert grader.grade(problem, method("return 'x' * 200_000")).correct
        small = make_problem("assert len(Solution().double(x = 1)) == 200_000")
        reason = grader.grade(small, method("return 'x' * 200_000")).reason
        assert reason is not None and reason.startswith("output: more than output_kib=64 of values")


def test_a_flood_gains_no_room() -> None:
    """What is expected is measured where the response has not run."""
    problem = make_problem("assert Solution().double(x = 3) == [0] * len(range(3))")
    flood = "n = 10 ** 9\ndef range(x): return n\ndef len(x): return x\nclass Solution:\n    def double(self, x): return 'x' * 10 ** 6"
    with Grader("none", limits=SandboxLimits(output_kib=64)) as grader:
        reason = grader.grade(problem, fenced(flood)).reason
    assert reason is not None and "output_kib=64 of" in reason


def test_the_shared_cases(grader: Grader, shared_data: Path) -> None:
    rows = (shared_data / "field_cases" / "data_large_answer.jsonl").read_text().splitlines()
    for problem in map(Problem.from_row, map(json.loads, rows)):
        assert grader.grade(problem, fenced(problem.canonical_solution or "")).correct


def test_what_is_printed_has_no_limit(grader: Grader) -> None:
    assert grader.grade(make_problem(), method("print('x' * 20_000_000); return 2 * x")).correct
