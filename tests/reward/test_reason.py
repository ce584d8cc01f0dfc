"""Why an answer is not correct: told apart, with its place, and safe to print."""

from collections.abc import Iterator
from typing import Any

import pytest

from reward import Grader, SandboxLimits
from reward.reason import KINDS
from reward.sandbox import JobResult
from tests.reward.helpers import fenced, make_problem, method

LIMITS = SandboxLimits(cpu_s=1, wall_s=30, memory_mib=96, output_kib=64)
FIRST = "assert 1 of 5, `assert Solution().double(x = 1) == 2`"
REASONS = {
    "wrong value": (method("return 2 * x if x < 3 else [x, 'y']"), "got [3, 'y'] at assert 3 of 5"),
    "a type of its own": (method("return Solution()"), "wrong value: got an object of type Solution at " + FIRST),
    "exception": (method("return 1 // (x - 1)"), "ZeroDivisionError: integer division or modulo by zero (line 3)"),
    "its own exception": (
        method("raise E", "class E(Exception):\n    def __str__(self): return 'forged'"),
        "exception: E (line 3), at " + FIRST,
    ),
    "at the top": (fenced("x = 1\nprint(y)"), "NameError: name 'y' is not defined (line 2), at the top"),
    "sys.exit": (method("import sys; sys.exit(3)"), "exception: SystemExit: 3 (line 3)"),
    "time": (method("while True: pass"), "more than cpu_s=1 of CPU, at " + FIRST),
    "memory": (method("return [0] * 10 ** 9"), "MemoryError (line 3), the limit is memory_mib=96"),
    "memory in small pieces": (method("a = []\n        while True: a = [a, [0] * 99]"), "memory: MemoryError"),
    "memory kept": (
        fenced("kept = []\nfor n in range(10 ** 9): kept.append([n] * 99)\n"),
        "memory: MemoryError (line 2), the limit is memory_mib=96, at the top",
    ),
    "output": (method("return 'x' * 1_000_000"), "output: more than output_kib=64"),
    "import": (method("import nowhere_to_be_found; return 2 * x"), "No module named 'nowhere_to_be_found' (line 3)"),
    "no answer": (method("import os; os._exit(0)"), "the process ended, at " + FIRST),
    "a signal": (method("import os; os.kill(os.getpid(), 11)"), "exception: the process was ended by SIGSEGV"),
    "not formatted": ("return 2 * x", "no Python program in the reply"),
    "does not compile": (fenced("class Solution:\n    def f(:"), "SyntaxError: invalid syntax (line 2)"),
}  # fmt: skip


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader("none", limits=LIMITS) as one:
        assert one.grade(make_problem(), method("return 2 * x")).correct
        yield one


@pytest.mark.parametrize("name", REASONS)
def test_the_reason_is_named(grader: Grader, name: str) -> None:
    response, text = REASONS[name]
    verdict = grader.grade(make_problem(), response)
    assert not verdict.correct and verdict.reason is not None
    assert text in verdict.reason and verdict.reason.partition(":")[0] in KINDS
    assert name not in KINDS or verdict.reason.startswith(name)


def test_the_clock_is_told_from_the_processor() -> None:
    with Grader("none", limits=SandboxLimits(cpu_s=4, wall_s=0.3)) as grader:
        verdict = grader.grade(make_problem(), method("import time; time.sleep(9)"))
    assert verdict.reason is not None and verdict.reason.startswith(
        "time: more than wall_s=0.3 by the clock, at"
    )


def test_a_correct_answer_has_none(grader: Grader) -> None:
    assert grader.grade(make_problem(), method("return 2 * x")).reason is None


@pytest.mark.parametrize(
    "body",
    [
        "raise ValueError('\\x1b[2J\\n' * 10 ** 6)",
        "return '\\x1b[2J\\n\\ud800' * 1000",
        "return 10 ** 5000 if x > 1 else -10 ** 4000",
        "return [[[[[[x] * 99] * 99]]], 'a' * 999, None, {x: (x, {x})}] * 5",
        'import os; os.write(3, b\'{"i": 0, "e": [1], "n": "x"}\\n\'); os._exit(0)',
        'import os; os.write(3, b\'{"i": 0, "t": {}}\\n[1]\\n7\\n\'); os._exit(0)',
        'import os; os.write(3, b\'{"s": "raised", "e": null}\\n\'); os._exit(0)',
    ],
)
def test_what_the_response_says_is_bounded_and_printable(grader: Grader, body: str) -> None:
    verdict = grader.grade(make_problem(), method(body))
    assert verdict.reason and verdict.reason.isprintable() and len(verdict.reason) <= 520


def test_broken_setup_code_is_named() -> None:
    with Grader("none") as grader, pytest.raises(ValueError, match=r"ZeroDivisionError.*\(line 2\)"):
        grader.grade(make_problem(setup_code="x = 1\n1 / 0"), method("return 2 * x"))


def test_a_result_of_strange_lines_has_no_stage() -> None:
    strange: list[tuple[Any, ...]] = [(), (None,), ([],), ("s",), ({},)]
    assert [JobResult("exited", lines, 0.0, 0.0).stage() for lines in strange] == [None] * 5
