"""CPU and rollouts per second of the sandbox beside plain `python -c` processes, on the same cases in the same run.

    PYTHONPATH=. python scripts/bench/sandbox.py [--repeat 10] [--workers 1 2] [--problems FILE]

Mode run_tests. The cases are a third right, a third wrong and a third vacuous run_tests(): of small problems made
here, or of the problems of FILE (right: the canonical solution, whose own work no grader can save; the median is then
the telling column). The sandbox grades every case --repeat times, those of one problem together as in a policy's
groups, the plain ways once.

    sandbox             reward.Grader: fork server, isolation, oracle outside; its start is included
    python -c per check an interpreter for each thing to find out, as graders commonly do: does it compile, do the
                        asserts hold, does run_tests() pass, does it pass on a stub; those whose answer no longer
                        matters are skipped
    python -c, all in 1 one interpreter that executes setup, response and asserts, and never looks at run_tests()

CPU is user and system time of everything that was started, and of this process, by getrusage; it is steady where wall
time is not.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from reward import Grader, Problem, SandboxLimits, load_problems
from reward.reply import benchmark_program

MODE = "run_tests"
LIMITS = SandboxLimits(cpu_s=10.0, wall_s=60.0)
VACUOUS = "\ndef run_tests():\n    pass\n"
STUB = """
for _name, _member in list(vars(Solution).items()):
    if callable(_member) and not _name.startswith("__"):
        setattr(Solution, _name, lambda *a, **k: None)
"""
Case = tuple[Problem, str]


@dataclass(frozen=True)
class Measured:
    """One way of grading. cpu_ms, median_cpu_ms: a rollout. correct: by case."""

    name: str
    rollouts: int
    seconds: float
    cpu_ms: float
    median_cpu_ms: float
    correct: list[bool]


def small_problems() -> list[tuple[Problem, str]]:
    """Twenty problems of five small asserts, with a solution."""
    out = []
    for k in range(1, 21):
        inputs = [list(range(start, start + 10)) for start in range(5)]
        row = {
            "id": k,
            "prompt": [{"role": "user", "content": "and should pass all tests"}],
            "question": "",
            "func_name": "Solution().total",
            "setup_code": "from typing import *",
            "gt_answer": [f"assert Solution().total(nums = {a}) == {sum(x * k for x in a)}" for a in inputs],
        }
        code = "class Solution:\n    def total(self, nums: List[int]) -> int:\n"
        out.append((Problem.from_row(row), code + f"        return sum(x * {k} for x in nums)\n"))
    return out


def cases_of(solved: list[tuple[Problem, str]], repeat: int = 1) -> list[Case]:
    """Right, wrong and vacuous answers to each problem, ``repeat`` times before the next problem."""
    cases = []
    for problem, solution in solved:
        name = problem.func_name.rpartition(".")[2]
        wrong = f"class Solution:\n    def {name}(self, *args, **kwargs):\n        return -12345\n"
        cases += [
            (problem, f"```python\n{code}\n```") for code in (solution, wrong, wrong + VACUOUS)
        ] * repeat
    return cases


def cpu_s(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def all_cpu_s() -> float:
    return cpu_s(resource.RUSAGE_SELF) + cpu_s(resource.RUSAGE_CHILDREN)


def sandbox(cases: list[Case], workers: int) -> Measured:
    cpu, started = all_cpu_s(), time.perf_counter()
    with Grader(MODE, LIMITS) as grader:
        verdicts = grader.grade_many(cases, workers)
        seconds = time.perf_counter() - started
    mean = 1e3 * (all_cpu_s() - cpu) / len(cases)
    inside = [verdict.cpu_ms for verdict in verdicts]
    median = (
        statistics.median(inside) + mean - statistics.mean(inside)
    )  # what lies outside is the same for all
    return Measured(
        f"sandbox, {workers} worker{'s' * (workers > 1)}",
        len(cases),
        seconds,
        mean,
        median,
        [verdict.correct for verdict in verdicts],
    )


def python(source: str) -> bool:
    """Exit status 0 of a fresh interpreter. From stdin, because arguments are bounded at 128 KiB."""
    return (
        subprocess.run([sys.executable, "-I", "-"], input=source.encode(), capture_output=True).returncode
        == 0
    )


def per_check(problem: Problem, code: str) -> bool:
    if not python(f"compile({code!r}, '<response>', 'exec')"):
        return False
    program = f"{problem.setup_code}\n{code}\n"
    correct = python(program + "\n".join(problem.gt_answer))
    if "run_tests" in code and python(program + "run_tests()"):
        python(program + STUB + "run_tests()")
    return correct


def all_in_one(problem: Problem, code: str) -> bool:
    return python("\n".join((problem.setup_code, code, *problem.gt_answer)))


def plain(name: str, grade: Callable[[Problem, str], bool], cases: list[Case]) -> Measured:
    each: list[float] = []
    correct = []
    started = time.perf_counter()
    for problem, response in cases:
        before = cpu_s(resource.RUSAGE_CHILDREN)
        correct.append(grade(problem, benchmark_program(response) or ""))
        each.append(1e3 * (cpu_s(resource.RUSAGE_CHILDREN) - before))
    seconds = time.perf_counter() - started
    return Measured(name, len(cases), seconds, statistics.mean(each), statistics.median(each), correct)


def measure(solved: list[tuple[Problem, str]], repeat: int, workers: list[int]) -> Iterator[Measured]:
    for number in workers:
        yield sandbox(cases_of(solved, repeat), number)
    yield plain("python -c per check", per_check, cases_of(solved))
    yield plain("python -c, all in 1", all_in_one, cases_of(solved))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeat", type=int, default=10, help="rollouts of each case in the sandbox")
    parser.add_argument("--problems", help="a .jsonl or .jsonl.gz file; default: small problems made here")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    options = parser.parse_args()
    solved = small_problems()
    if options.problems:
        loaded = load_problems(options.problems)
        solved = [(p, p.canonical_solution) for p in loaded if p.canonical_solution]
    found = list(measure(solved, options.repeat, options.workers))
    print(f"{'':22}{'rollouts':>9}{'per s':>9}{'CPU ms':>9}{'median':>9}")
    for one in found:
        print(
            f"{one.name:22}{one.rollouts:9}{one.rollouts / one.seconds:9.1f}{one.cpu_ms:9.2f}{one.median_cpu_ms:9.2f}"
        )
    ours, single, checks, joined = found[0], found[0].rollouts / found[0].seconds, found[-2], found[-1]
    for other in (checks, joined):
        print(
            f"{other.name}: {other.cpu_ms / ours.cpu_ms:.1f} times the CPU, median {other.median_cpu_ms / ours.median_cpu_ms:.1f}"
            f" times, {single * other.seconds / other.rollouts:.1f} times fewer rollouts a second"
        )
    for one in found[1:-2]:
        print(f"{one.name}: {one.rollouts / one.seconds / single:.2f} times the rollouts of {ours.name}")
    group = 3 * options.repeat
    once = [
        correct for start in range(0, ours.rollouts, group) for correct in ours.correct[start : start + 3]
    ]
    disagree = [one.name for one in (checks, joined) if one.correct != once]
    if disagree:
        print(f"warning: other verdicts than {ours.name}: {', '.join(disagree)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
