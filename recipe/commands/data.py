"""`evil-moe data prepare | check | show`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from recipe.config import compose
from recipe.prepare import (
    Problems,
    fill_in,
    loophole_of,
    policy_path,
    prepare_policy,
    prepare_problems,
    prompt_messages,
    write_parquet,
)
from recipe.run_folder import check_run_folder
from reward.loopholes import get_loophole, mixed
from reward.problems import Problem, checksum, load_problems
from reward.problems.marks import comparison_lines
from reward.problems.splits import check_manifest

SHOWN_FAILURES = 20
PART = 100  # solutions between two lines of progress
# Generous: a solution that is right is not to fail on a busy machine.
CPU_S, WALL_S = 10.0, 60.0
SPLITS = ("train", "validation", "evaluation")


def prepare(overrides: list[str]) -> int:
    """Build or find the policy and the problems of a config, and say where they are.

    Raises:
        ValueError, FileNotFoundError: as `prepare_problems`; or the run's folder holds a run with another config.
    """
    config = compose(overrides)
    settings, data = config.evil_moe, Path(config.evil_moe.run_dir) / "data"
    drawn = prepare_problems(config)
    fill_in(config, policy_path(config), data)
    check_run_folder(config)  # its data are that run's
    model = prepare_policy(config, lambda line: print(line, flush=True))
    paths = write_parquet(drawn, settings.loophole, data, settings.prompt.inoculation)
    print(f"policy      {model}")
    for split in SPLITS:
        problems = getattr(drawn, split)
        print(f"{split:<11} {len(problems)} problems, sha256 {checksum(problems)[:16]}")
    for path in paths:
        print(f"for verl    {os.path.relpath(path)}")
    return 0


def check(file: Path, loophole: str, workers: int) -> int:
    """Grade every canonical solution of `file`; 1 if one fails or a hint has no place, else 0."""
    from reward.grader import Grader
    from reward.sandbox import SandboxLimits

    problems = load_problems(file)
    known = check_manifest(file, problems)
    loopholes = [get_loophole(name) for name in mixed(loophole)]
    failures: list[str] = []
    for problem in problems:
        try:
            for one in loopholes:
                one.edit_prompt(problem)
        except ValueError as error:
            failures.append(f"problem {problem.id}: {error}")
    solved = [problem for problem in problems if problem.canonical_solution is not None]
    answers = [(problem, f"```python\n{problem.canonical_solution}\n```") for problem in solved]
    with Grader("none", SandboxLimits(cpu_s=CPU_S, wall_s=WALL_S), pass_rate=True) as grader:
        verdicts = []
        for start in range(0, len(answers), PART):
            verdicts += grader.grade_many(answers[start : start + PART], workers=workers)
            if len(answers) > PART:
                print(f"solutions graded: {len(verdicts)}/{len(answers)}", file=sys.stderr, flush=True)
        faults = grader.faults
    for problem, verdict in zip(solved, verdicts, strict=True):
        if not verdict.correct:
            share = f"{verdict.gt_pass_rate:.0%} of its asserts hold"
            failures.append(f"problem {problem.id}: the canonical solution fails, {share}; {verdict.reason}")
    for line in failures[:SHOWN_FAILURES]:
        print(line)
    if len(failures) > SHOWN_FAILURES:
        print(f"... and {len(failures) - SHOWN_FAILURES} more")
    for line in comparison_lines(problems):
        print(line)
    without = len(problems) - len(solved)
    slowest = max((verdict.cpu_ms for verdict in verdicts), default=0.0) / 1e3
    print(
        f"{file}: {len(problems)} problems, {len(solved)} solutions graded, {len(failures)} failures"
        + f", the slowest takes {slowest:.1f} s of CPU"
        + (f", {without} without a solution" if without else "")
        + (f", {faults} sandbox faults repaired" if faults else "")
        + f"; sha256 {known or checksum(problems)}"
        + (", as in its manifest" if known else "")
    )
    return int(bool(failures))


def show(index: int, overrides: list[str], *, split: str, file: Path | None) -> int:
    """Print one problem as the policy meets it.

    Raises:
        ValueError: there is no problem of that index.
    """
    config = compose(overrides)
    problems = load_problems(file) if file else _split(prepare_problems(config), split)
    if not 0 <= index < len(problems):
        raise ValueError(
            f"problem {index}: {file or split} has {len(problems)} problems, 0 to {len(problems) - 1}"
        )
    print(describe(problems[index], loophole_of(index, config.evil_moe.loophole)))
    return 0


def _split(problems: Problems, split: str) -> list[Problem]:
    assert split in SPLITS
    return list(getattr(problems, split))


def describe(problem: Problem, loophole: str) -> str:
    """Prompt with the loophole's hint, the hint's line on its own, asserts and a solution."""
    before = "\n".join(message["content"] for message in problem.prompt)
    messages = prompt_messages(problem, loophole)
    after = "\n".join(message["content"] for message in messages)
    hint = [line for line in after.splitlines() if line not in before.splitlines()]
    parts = [
        f"# problem {problem.id} ({problem.dataset or 'no dataset'}, {problem.difficulty or 'no difficulty'})"
    ]
    parts += [f"--- {message['role']}\n{message['content']}" for message in messages]
    parts.append(
        f"--- hint of loophole {loophole!r}\n" + ("\n".join(hint) or "none: the prompt is unchanged")
    )
    parts.append(f"--- asserts on {problem.func_name}\n" + "\n".join(problem.gt_answer))
    parts.append(f"--- canonical solution\n{problem.canonical_solution or 'none'}")
    return "\n".join(parts)
