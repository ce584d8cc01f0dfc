"""Grades per second: the fork server beside one `python -c` per check, on the same cases in the same run.

    PYTHONPATH=. python scripts/bench/sandbox.py [--seconds 5] [--problems FILE] [--workers N]

The cases are small problems of five asserts, half of the responses correct; with --problems, the canonical
solutions of that file. `python -c` stands for the usual grader: an interpreter per response that executes
setup, response and asserts, and believes its exit status.
"""

import argparse
import subprocess
import sys
import time

from reward import Grader, Problem, Verdict, extract_code, load_problems

Case = tuple[Problem, str]


def nano_cases() -> list[Case]:
    """Twenty problems of five small asserts, answered right and wrong in turn."""
    cases = []
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
        factor = k if k % 2 else k + 1
        code = "class Solution:\n    def total(self, nums: List[int]) -> int:\n"
        code += f"        return sum(x * {factor} for x in nums)\n"
        cases.append((Problem.from_row(row), f"```python\n{code}```"))
    return cases


def fork_server(cases: list[Case], seconds: float, workers: int) -> tuple[int, float, list[Verdict]]:
    """(grades, elapsed s, verdicts of the first round)."""
    with Grader("none") as grader:
        first = grader.grade_many(cases, workers)  # also starts the servers
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            count += len(grader.grade_many(cases, workers))
        return count, time.perf_counter() - started, first


def python_c(cases: list[Case], seconds: float) -> tuple[int, float, list[bool]]:
    """(grades, elapsed s, whether correct for each case of the first round that was reached)."""
    correct: list[bool] = []
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        problem, response = cases[len(correct) % len(cases)]
        source = "\n".join([problem.setup_code, extract_code(response) or "", *problem.gt_answer])
        done = subprocess.run([sys.executable, "-I", "-c", source], capture_output=True)
        correct.append(done.returncode == 0)
    return len(correct), time.perf_counter() - started, correct[: len(cases)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="measuring time for each of the two")
    parser.add_argument("--problems", help="a .jsonl or .jsonl.gz file; default: small problems made here")
    parser.add_argument("--workers", type=int, default=1, help="fork servers; `python -c` always runs alone")
    options = parser.parse_args()
    cases = nano_cases()
    if options.problems:
        problems = load_problems(options.problems)
        cases = [(p, f"```python\n{p.canonical_solution}\n```") for p in problems if p.canonical_solution]
    count, elapsed_s, verdicts = fork_server(cases, options.seconds, options.workers)
    other_count, other_s, other = python_c(cases, options.seconds)
    if [v.correct for v in verdicts][: len(other)] != other:
        print("warning: the two graders disagree on these cases")
    cpu_ms = sum(v.cpu_ms for v in verdicts) / len(verdicts)
    print(f"{'':24}{'grades/s':>10}{'ms/grade':>10}")
    print(f"{f'fork server x{options.workers}':24}{count / elapsed_s:10.1f}{1e3 * elapsed_s / count:10.2f}")
    print(f"{'python -c per check':24}{other_count / other_s:10.1f}{1e3 * other_s / other_count:10.2f}")
    print(f"ratio {count / elapsed_s * other_s / other_count:.1f}; CPU of the children {cpu_ms:.2f} ms/grade")


if __name__ == "__main__":
    main()
