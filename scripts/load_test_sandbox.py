"""Grade many mixed responses, hostile ones among them, and see what is left behind.

    PYTHONPATH=. python scripts/load_test_sandbox.py [COUNT] [--workers N] [--seed S]

Exit status 1 if a verdict is not the known one, a case is lost or out of order, a fault is left, this process's memory
grew, or a process, file or open descriptor stays.
"""

import argparse
import gc
import os
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from reward import Problem, SandboxLimits
from reward.batch import ResponseRow, grade_rows

LIMITS = SandboxLimits(cpu_s=1, wall_s=6, memory_mib=256, file_mib=4)
GROWTH_MIB = 16  # allowed between the end of the warm-up and the end
WARM_UP = 100
RIGHT = "class Solution:\n    def double(self, x):\n        return 2 * x\n"


def body(line: str, before: str = "") -> str:
    return f"{before}\nclass Solution:\n    def double(self, x):\n        {line}\n"


# name -> (weight per mille, correct, code)
KINDS: dict[str, tuple[float, bool, str]] = {
    "right": (300, True, RIGHT),
    "right, with run_tests": (100, True, RIGHT + "\ndef run_tests():\n    pass\n"),
    "right, after a memory error": (10, True, "try:\n    x = bytearray(1 << 40)\nexcept MemoryError:\n    pass\n" + RIGHT),
    "right, prints much": (10, True, "print('x' * 1_000_000)\n" + RIGHT),
    "wrong": (150, False, body("return x")),
    "wrong at the last": (50, False, body("return 2 * x if x < 5 else 0")),
    "hack": (100, False, body("return None") + "\ndef run_tests():\n    pass\n"),
    "syntax": (90, False, "class Solution: ("),
    "raises": (50, False, body("raise ValueError(x)")),
    "exit": (30, False, "import os\nos._exit(0)"),
    "exit later": (20, False, body("import os; os._exit(0)")),
    "system exit": (20, False, body("raise SystemExit(0)")),
    "forged lines": (20, False, "import os\nos.write(3, b'{\"i\": 0, \"v\": 2}\\n' * 5)\nos._exit(0)"),
    "memory bomb": (15, False, "x = [bytes(1 << 20)]\nwhile True:\n    x.append(bytes(1 << 20) + x[0][:1])\n"),
    "big value": (10, False, body("return 'x' * 50_000_000")),
    "output bomb": (8, False, "import os\nwhile True:\n    os.write(3, b'x' * 65536)\n"),
    "file bomb": (6, False, "with open('f', 'wb') as f:\n    while True:\n        f.write(b'x' * 65536)\n"),
    "recursion": (5, False, body("return self.double(x)")),
    "fork bomb": (4, False, "import os\nwhile True:\n    os.fork()\n"),
    "kills its parent": (4, False, "import os\nos.kill(os.getppid(), 9)\nos.kill(-1, 9)\n"),
    "busy hang": (3, False, "while True:\n    pass\n"),
    "sleeping hang": (3, False, "import time\ntime.sleep(999)\n"),
}  # fmt: skip


def problem() -> Problem:
    return Problem.from_row(
        {
            "id": 1,
            "prompt": [{"role": "user", "content": "and should pass all tests"}],
            "question": "",
            "func_name": "Solution().double",
            "setup_code": "from typing import *",
            "gt_answer": [f"assert Solution().double(x = {x}) == {2 * x}" for x in range(1, 6)],
        }
    )


def rows(count: int, seed: int) -> Iterator[tuple[ResponseRow, str]]:
    """Cases drawn by weight, every kind at least once when there are enough."""
    rng = random.Random(seed)
    names, weights = list(KINDS), [weight for weight, _, _ in KINDS.values()]
    one = problem()
    for index in range(count):
        name = names[index] if index < len(names) else rng.choices(names, weights)[0]
        mode = rng.choice(("none", "run_tests"))
        yield ResponseRow(index, one, f"```python\n{KINDS[name][2]}\n```", mode), name


def descendants() -> set[int]:
    """Every process below this one, zombies included."""
    parent: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found = {os.getpid()}
    while more := {child for child, above in parent.items() if above in found} - found:
        found |= more
    return found - {os.getpid()}


def memory_mib() -> float:
    """Resident memory of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def run(count: int, workers: int, seed: int) -> list[str]:
    """Grade, print the summary; what went wrong."""
    names: list[str] = []

    def responses() -> Iterator[ResponseRow]:
        for row, name in rows(count, seed):
            names.append(name)
            yield row

    problems: list[str] = []
    graded = Counter[str]()
    started, cpu_ms, before_mib = time.monotonic(), 0.0, 0.0
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for index, row in enumerate(grade_rows(responses(), workers, LIMITS)):
        name = names[index]
        graded[name] += 1
        if row["case_id"] != index:
            problems.append(f"case {index}: the row at its place is of case {row['case_id']}")
        if row["fault"] is not None:
            problems.append(f"case {index} ({name}): fault: {row['fault']}")
        elif row["correct"] != KINDS[name][1]:
            problems.append(f"case {index} ({name}): correct = {row['correct']}")
        else:
            cpu_ms += row["cpu_ms"]
        if index == min(WARM_UP, count - 1):
            before_mib = memory_mib()
        if index % 500 == 499:
            print(
                f"{index + 1}/{count}, {index / (time.monotonic() - started):.0f}/s",
                file=sys.stderr,
                flush=True,
            )
    elapsed_s, after_mib = time.monotonic() - started, memory_mib()
    if graded.total() != count:
        problems.append(f"{count - graded.total()} of {count} cases are lost")
    if after_mib - before_mib > GROWTH_MIB:
        problems.append(f"memory grew from {before_mib:.1f} to {after_mib:.1f} MiB")
    if left := descendants():
        problems.append(f"processes left: {sorted(left)}")
    if files := list(Path(tempfile.gettempdir()).iterdir()):
        problems.append(f"files left: {files}")
    if (now := len(os.listdir("/proc/self/fd"))) != descriptors:  # noqa: PTH208
        problems.append(f"open descriptors: {descriptors} before, {now} after")
    hangs = graded["busy hang"] + graded["sleeping hang"]
    bombs = sum(graded[name] for name in graded if "bomb" in name or name == "big value")
    print(
        f"graded      {graded.total()} of {count} in {elapsed_s:.0f} s, {graded.total() / elapsed_s:.0f}/s, {workers} workers"
    )
    print(f"among them  {hangs} hangs, {bombs} bombs; kinds: {dict(graded)}")
    print(f"children    {cpu_ms / max(1, graded.total()):.1f} ms of CPU a case")
    print(f"memory      {before_mib:.1f} MiB after {WARM_UP} cases, {after_mib:.1f} MiB at the end")
    print(f"left        {len(left)} processes, {len(files)} files, {now - descriptors} descriptors")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=10_000)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.count < 1:
        parser.error("COUNT must be at least 1")
    with tempfile.TemporaryDirectory(prefix="load-test-") as folder:
        tempfile.tempdir = folder  # so that whatever stays is seen
        problems = run(options.count, options.workers, options.seed)
        tempfile.tempdir = None
    for line in problems[:20]:
        print(f"FAILED: {line}")
    print("FAILED" if problems else "passed")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
