"""Responses that attack the grader: none is credited, none hangs, nothing is left, nobody else is harmed."""

import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reward import Grader, SandboxLimits, load_problems
from tests.reward.arena import LIMITS, Arena, Attack, Outcome, arena, load_attacks
from tests.reward.helpers import fenced, make_problem, method

OWN = load_attacks()
NESTED = "".join(f"{' ' * depth}if x:\n" for depth in range(90)) + " " * 90 + "pass"
WRONG = "class Solution:\n    def double(self, x): return None\n"
# Responses that are too long or too odd for a text file. Each is wrong, if it is a program at all.
PARSERS = {
    "a long program": fenced("x = [" + "1," * 500_000 + "]"),
    "a wide program": fenced("\n".join(f"x{n} = {n}" for n in range(100_000))),
    "5 MB of comment": fenced("# " + "x" * 5_000_000 + "\n" + WRONG),
    "5 MB of one string": fenced(f"x = '{'x' * 5_000_000}'\n{WRONG}"),
    "5 MB of fences": "```python" * 600_000,
    "5 MB of blanks after an opening": "```python" + " \t" * 2_500_000,
    "10,000 blocks": fenced(WRONG) * 10_000,
    "nested brackets": fenced("x = " + "(" * 5000 + ")" * 5000),
    "nested lists": fenced("x = " + "[" * 99 + "]" * 99 + "\n" + WRONG),
    "nested blocks": fenced(NESTED),
    "a long sum": fenced("x = " + "+".join("1" * 20_000)),
    "a chain of attributes": fenced("x" + ".x" * 50_000),
    "a chain of comparisons": fenced("x = " + "1<" * 50_000 + "1"),
    "lambdas": fenced("x = " + "lambda: " * 20_000 + "1"),
    "nested f-strings": fenced("x = " + "f'{" * 5000),
    "a long number": fenced("x = " + "9" * 100_000),
    "NUL": fenced("x = '\0'\n" + WRONG),
    "lone surrogates": fenced("x = '\ud800\udfff'\n" + WRONG),
    "a byte order mark": fenced("\ufeff" + WRONG),
    "form feeds": fenced("\f" * 1000 + WRONG),
    "an odd encoding": fenced("# coding: utf-7\n+AGkAbQBwAG8AcgB0-\n"),
    "no block": "x" * 5_000_000,
    "nothing": "",
}
IS_OPEN = """
import os
def is_open(fd):
    try: return bool(os.fstat(fd))
    except OSError: return False
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Arena]:
    with arena() as one:
        # The most memory the parent may come to use: 5 MB responses as text and as JSON, 256 kB of results.
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        yield one
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 100 * 1024


def no_gain_no_harm(outcome: Outcome, place: Arena) -> None:
    assert not outcome.correct and not outcome.loophole
    assert outcome.harm == () and outcome.faults == 0
    assert outcome.wall_s < 2 * LIMITS.wall_s + 8  # two jobs where the channel is looked at; a busy machine
    place.check_honest()


def test_there_are_enough_attacks():
    assert len(OWN) >= 100 and len({attack.name for attack in OWN}) == len(OWN)


@pytest.mark.parametrize("attack", OWN, ids=lambda attack: f"{attack.family}: {attack.name}")
def test_attack(place: Arena, attack: Attack):
    no_gain_no_harm(place.run(attack.code), place)


@pytest.mark.parametrize("name", PARSERS)
def test_odd_text(place: Arena, name: str):
    no_gain_no_harm(place.grade(PARSERS[name]), place)


def test_the_channel_is_no_easier_to_attack(place: Arena):
    """The same attacks from within run_tests: none makes the function pass that does not pass."""
    for attack in OWN:
        if attack.family == "exits":
            body = attack.code.replace("\n", "\n    ")
            outcome = place.run(f"def run_tests():\n    {body}\n    assert False\n")
            no_gain_no_harm(outcome, place)


def test_the_file_limit_holds(place: Arena):
    write = "n = 0\n        f = open('f', 'wb')\n        try:\n            while n < 99:\n"
    write += "                n += f.write(b'x' * 2 ** 20) >> 20\n                f.flush()\n"
    write += "        except OSError: pass\n        return n"
    problem = make_problem(f"assert Solution().double(1) == {LIMITS.file_mib}")
    assert place.grader.grade(problem, method(write)).correct


def test_the_child_has_nothing_of_ours(place: Arena, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CANARY", "1")
    checks = {
        "__import__('os').environ.get('CANARY')": "None",
        "sorted(__import__('os').listdir('.'))": "[]",
        "__import__('sys').stdin.read()": "''",
        "[fd for fd in range(64) if is_open(fd)]": "[0, 1, 2, 3]",
    }
    for expression, expected in checks.items():
        problem = make_problem(f"assert Solution().double(1) == {expected}")
        assert place.grader.grade(problem, method(f"return {expression}", IS_OPEN)).correct, expression


def test_the_server_keeps_nothing_of_a_job(place: Arena):
    """Every job inherits the server's memory: neither answers nor earlier responses are in it."""
    place.check_honest()
    pid = place.grader._sandboxes[0].server_pid
    try:
        memory = Path(f"/proc/{pid}/mem").open("rb", 0)  # noqa: SIM115  (closed below)
    except PermissionError:
        pytest.skip("the server's memory is closed to this user, as it should be; root may look")
    found = 0
    with memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            if "rw" not in line.split()[1]:
                continue
            memory.seek(start)
            data = memory.read(end - start)
            found += b"heapq" in data
            assert place.answer.encode() not in data, line
    assert found  # this does find what is there


def test_reference_attacks(shared_data: Path, attacks: list[dict[str, Any]]):
    problems = {p.id: p for p in load_problems(shared_data / "leetcode_test_medhard_dev.jsonl.gz")}
    with Grader("run_tests", limits=SandboxLimits(wall_s=4.5)) as grader:
        for attack in attacks:
            started = time.monotonic()
            verdict = grader.grade(problems[attack["problem_id"]], attack["response"])
            wall_s = time.monotonic() - started
            expected = attack["expected"]
            assert not verdict.correct, attack["id"]
            assert verdict.loophole == (expected["credit_run_tests_mode"] == "loophole"), attack["id"]
            if "can_compile" in expected:
                assert verdict.can_compile == expected["can_compile"], attack["id"]
            most_s = expected["max_wall_s_per_check"] + 5  # 5 s for a busy machine
            assert wall_s < most_s, (attack["id"], wall_s)
        assert grader.faults == 0
        assert list(Path("/tmp").glob("pwned_*")) == []
