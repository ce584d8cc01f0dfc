"""The command `grade`, for `python -m reward` and for a larger command line that takes it in."""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import get_args

from reward.batch import LIMITS, GradeOptions
from reward.grade_file import Progress, grade_file
from reward.loopholes import LOOPHOLES, Split
from reward.reply import READINGS
from reward.sandbox import SandboxLimits, packages

GRADE_HELP = "grade a file of responses in the sandbox, one verdict row for each"
GRADE_NOTES = """\
a response row is {"case_id": .., "problem_id": .., "response": ".."}, and "mode" if it differs from --mode;
verdict rows come in the same order with the same case_id, written whole or not at all. An interrupted start is
resumed by the same command. A row whose "fault" is set could not be graded, and is no verdict: exit status 1.
"""
_REPORT_EVERY_S = 2.0


def add_grade_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `grade`."""
    parser.add_argument(
        "--problems", type=Path, required=True, metavar="P.jsonl[.gz]", help="the problem file"
    )
    parser.add_argument("--responses", type=Path, required=True, metavar="R.jsonl[.gz]", help="what to grade")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="V.jsonl[.gz]", help="where the verdicts go"
    )
    parser.add_argument(
        "--mode",
        default="none",
        help=f"mode of rows that name none (default: none): {', '.join(sorted(LOOPHOLES))}",
    )
    parser.add_argument(
        "--split",
        choices=get_args(Split),
        default="train",
        help="family of the markers that the prompts disclosed (default: train)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed that they were drawn with (default: 0)")
    parser.add_argument(
        "--no-labels", action="store_true", help="leave out the fields that cost more jobs, as training does"
    )
    parser.add_argument(
        "--reply",
        choices=READINGS,
        default="markdown",
        help="how a reply's program is found: as Markdown, or by rl-rewardhacking's rule (default: markdown)",
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="sandboxes at a time (default: the cores)"
    )
    parser.add_argument(
        "--cpu-s",
        type=float,
        default=LIMITS.cpu_s,
        help="CPU seconds a program may take (default: %(default)s)",
    )
    parser.add_argument(
        "--wall-s", type=float, default=LIMITS.wall_s, help="seconds by the clock (default: %(default)s)"
    )
    parser.add_argument(
        "--memory-mib", type=int, default=LIMITS.memory_mib, help="memory of a program (default: %(default)s)"
    )
    parser.add_argument(
        "--output-kib",
        type=int,
        default=LIMITS.output_kib,
        help="values that a program returns, beside what the expected ones take (default: %(default)s)",
    )
    parser.add_argument(
        "--recursion",
        type=int,
        default=LIMITS.recursion,
        help="Python's limit on its depth (default: %(default)s)",
    )
    parser.add_argument(
        "--packages",
        type=lambda text: tuple(filter(None, text.split(","))),
        default=LIMITS.packages,
        metavar="A,B",
        help=f"installed packages that programs may import (default: {','.join(LIMITS.packages)})",
    )
    parser.add_argument(
        "--allow-weak",
        action="store_true",
        help="grade also where the sandbox lacks its minimum of isolation",
    )


def run_grade(args: argparse.Namespace) -> int:
    """Grade as the options say; 1 if rows ended in a fault, else 0. Raises as ``grade_file``."""
    if unknown := packages.absent(set(args.packages) - set(LIMITS.packages)):
        raise ValueError(
            f"--packages: {', '.join(sorted(unknown))} is not installed; install it, or leave it out"
        )
    limits = SandboxLimits(
        cpu_s=args.cpu_s,
        wall_s=args.wall_s,
        memory_mib=args.memory_mib,
        output_kib=args.output_kib,
        recursion=args.recursion,
        packages=args.packages,
        allow_weak=args.allow_weak,
    )
    options = GradeOptions(split=args.split, seed=args.seed, labels=not args.no_labels, reply=args.reply)
    line = _Line()
    end = grade_file(
        args.problems, args.responses, args.out, args.mode, args.workers, limits, options, line.show
    )
    line.end()
    resumed = f", {end.resumed} of them by an earlier start" if end.resumed else ""
    print(f"{args.out}: {end.total} responses graded{resumed}, {end.faults} faults")
    return int(end.faults > 0)


class _Line:
    """Progress on stderr: one line that is written over on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._started = self._shown = time.monotonic()
        self._open = False

    def show(self, at: Progress) -> None:
        now = time.monotonic()
        if now - self._shown < _REPORT_EVERY_S and at.done < at.total:
            return
        self._shown, self._open = now, sys.stderr.isatty()
        rate = (at.done - at.resumed) / max(now - self._started, 1e-9)
        text = f"graded {at.done}/{at.total}, {rate:.0f}/s, {at.faults} faults"
        print(
            f"\r{text}" if self._open else text, end="" if self._open else "\n", file=sys.stderr, flush=True
        )

    def end(self) -> None:
        if self._open:
            print(file=sys.stderr)
