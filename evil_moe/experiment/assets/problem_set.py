"""`evil-moe data prepare --from SOURCE --out FOLDER`: filtered and split problem files with a manifest."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from evil_moe.chat import prompt_ids
from reward.batch import LIMITS
from reward.problems import Problem
from reward.problems.filters import (
    Dropped,
    Filtered,
    by_difficulty,
    by_prompt_length,
    by_solution,
    prompt_characters,
    without_repeats,
)
from reward.problems.marks import limit_lines, mark, mark_lines
from reward.problems.sources import load_source
from reward.problems.splits import MANIFEST, split_problems, write_splits

SHOWN = 10
FORMS_NOTE = """\
problem files are .jsonl, .jsonl.gz, .json or .parquet, of the benchmark's form or one of these, told by their fields:
LeetCodeDataset, HumanEval, MBPP, AceCode, KodCode, and those rows of APPS, TACO, LiveCodeBench, DeepCoder, SYNTHETIC-1 and
verl that name a function. Tests on standard input, CodeContests among them, are refused with what to do.
"""
PREPARE_NOTE = f"""\
{FORMS_NOTE}
data prepare --from reads each statement: "in any order" sets any_order where the answer is a list, "within 10^-5" sets
tolerance where it is a float; a row's own any_order (outer, inner, all, false) and tolerance (0: strict) stay. A statement
that takes any of several answers, with asserts that take one, is named. Rows of other forms that cannot be converted are
dropped with their reason.
"""
CHECK_NOTE = f"""\
{FORMS_NOTE}
Told besides failures: how problems are compared that are not compared strictly, statements that ask for it without such a
mark, and problems of which several answers are right while the asserts take one. All problems are checked, whatever is
wrong with some. Exit status 1: a row cannot be used, a solution fails, or a hint has no place.
"""
_REPORT_EVERY_S = 5.0


def add_set_arguments(parser: argparse.ArgumentParser, default_workers: int) -> None:
    """The options that build problem files, of which --from and --out must be given."""
    group = parser.add_argument_group("problem files (instead of a run's policy and problems)")
    group.add_argument(
        "--from",
        dest="source",
        metavar="SOURCE",
        help="a problem file (.jsonl, .jsonl.gz, .json or .parquet) of one of the known forms, leetcode[:SPLIT] (from the "
        "hub), or nano",
    )
    group.add_argument(
        "--out", type=Path, metavar="FOLDER", help="a new folder for the files and their manifest"
    )
    group.add_argument(
        "--count", type=int, default=500, help="number of nano problems (default: %(default)s)"
    )
    group.add_argument("--difficulty", nargs="+", metavar="LEVEL", help="keep these, e.g. medium hard")
    group.add_argument(
        "--cpu-share",
        type=float,
        default=0.5,
        help="share of the limit on CPU time that a canonical solution may take (default: %(default)s)",
    )
    group.add_argument(
        "--max-cpu-s",
        type=float,
        default=15 * LIMITS.cpu_s,
        metavar="S",
        help="a problem with a slower solution gets a limit of its own, of up to so many seconds of CPU (default: "
        f"%(default)s; {LIMITS.cpu_s:g} drops it)",
    )
    group.add_argument(
        "--max-prompt-chars", type=int, metavar="N", help="keep prompts up to this length, without a hint"
    )
    group.add_argument("--max-prompt-tokens", type=int, metavar="N", help="the same in tokens of --tokenizer")
    group.add_argument(
        "--tokenizer", metavar="MODEL", help="folder or hub name of the model whose tokens count"
    )
    group.add_argument(
        "--fractions",
        type=float,
        nargs=3,
        default=[0.9, 0.05, 0.05],
        metavar=("TRAIN", "VALIDATION", "HELDOUT"),
        help="of the problems in each split (default: 0.9 0.05 0.05)",
    )
    group.add_argument("--split-seed", type=int, default=0, help="another number, another split (default: 0)")
    group.add_argument(
        "--keep-unsolved",
        action="store_true",
        help="keep problems that come without a canonical solution; nothing then checks their tests",
    )
    group.add_argument("--workers", type=int, default=default_workers, help="sandboxes (default: the cores)")
    group.add_argument(
        "--allow-weak",
        action="store_true",
        help="run solutions also where the sandbox lacks its minimum of isolation",
    )


def prepare_set(args: argparse.Namespace) -> int:
    """Load, filter, split, write. Raises ValueError or FileNotFoundError for what the user can mend."""
    if args.source is None or args.out is None:
        raise ValueError(
            "--from and --out belong together: where the problems come from, and a new folder for them"
        )
    if (args.max_prompt_tokens is None) != (args.tokenizer is None):
        raise ValueError("--max-prompt-tokens and --tokenizer belong together; give both or neither")
    if args.out.exists():  # said before the work rather than after it
        raise ValueError(f"{args.out}: is there already; remove it or choose another name")
    split_problems([], args.fractions, args.split_seed)
    source = load_source(args.source, args.count, args.split_seed)
    problems, dropped = source.problems, list(source.dropped)
    print(f"{source.name}: {len(problems)} problems" + (f", {len(dropped)} dropped" if dropped else ""))
    _show(dropped)
    problems = [mark(problem) for problem in problems]
    for line in mark_lines(problems):
        print(line)
    for name, rule in _filters(args):
        found = rule(problems)
        problems = found.kept
        dropped += found.dropped
        print(f"{name:<20} keeps {len(problems)}, drops {len(found.dropped)}")
        _show(found.dropped)
    for line in limit_lines(problems):
        print(line)
    if not problems:
        raise ValueError(
            f"{args.source}: no problem is left; loosen the filters that dropped them, listed above"
        )
    about = {
        "source": source.name,
        "split_seed": args.split_seed,
        "fractions": args.fractions,
        "difficulty": args.difficulty,
        "max_prompt_chars": args.max_prompt_chars,
        "max_prompt_tokens": args.max_prompt_tokens,
        "tokenizer": args.tokenizer,
        "cpu_share": args.cpu_share,
        "max_cpu_s": args.max_cpu_s,
        "limits": asdict(LIMITS),
    }
    splits = split_problems(problems, args.fractions, args.split_seed)
    manifest = write_splits(args.out, splits, dropped, about)
    for name, entry in manifest["splits"].items():
        print(
            f"{name:<11} {entry['problems']} problems, sha256 {entry['sha256'][:16]}, {args.out / entry['file']}"
        )
    print(f"manifest    {args.out / MANIFEST}")
    if {"train", "heldout"} <= manifest["splits"].keys():
        print(
            f"to train    evil_moe.data.source=files evil_moe.data.train={args.out}/train.jsonl.gz "
            f"evil_moe.data.evaluation={args.out}/heldout.jsonl.gz"
        )
    return 0


def _show(dropped: list[Dropped]) -> None:
    for item in dropped[:SHOWN]:
        print(f"  {item.id}: {item.reason}")
    if len(dropped) > SHOWN:
        print(f"  ... and {len(dropped) - SHOWN} more")


def _filters(args: argparse.Namespace) -> list[tuple[str, Callable[[list[Problem]], Filtered]]]:
    """Names and rules, the cheap ones first."""
    rules: list[tuple[str, Callable[[list[Problem]], Filtered]]] = [("repeats", without_repeats)]
    if args.difficulty:
        rules.append(("difficulty", lambda problems: by_difficulty(problems, args.difficulty)))
    if args.max_prompt_chars is not None:
        rules.append(
            (
                "prompt length",
                lambda problems: by_prompt_length(
                    problems, args.max_prompt_chars, prompt_characters, "characters"
                ),
            )
        )
    if args.max_prompt_tokens is not None:
        count = token_counter(args.tokenizer)
        rules.append(
            (
                "prompt tokens",
                lambda problems: by_prompt_length(problems, args.max_prompt_tokens, count, "tokens"),
            )
        )
    progress, limits = _Progress(), replace(LIMITS, allow_weak=args.allow_weak)
    rules.append(
        (
            "canonical solution",
            lambda problems: by_solution(
                problems,
                limits,
                args.cpu_share,
                args.workers,
                progress.show,
                args.keep_unsolved,
                args.max_cpu_s,
            ),
        )
    )
    return rules


def token_counter(model: str) -> Callable[[Problem], int]:
    """Tokens of a problem's prompt under a model's chat template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)

    def count(problem: Problem) -> int:
        return len(prompt_ids(tokenizer, problem.prompt, {}))

    return count


class _Progress:
    """A line on stderr every few seconds."""

    def __init__(self) -> None:
        self._shown = time.monotonic()

    def show(self, done: int, total: int) -> None:
        if time.monotonic() - self._shown >= _REPORT_EVERY_S:
            self._shown = time.monotonic()
            print(f"solutions graded: {done}/{total}", file=sys.stderr, flush=True)
