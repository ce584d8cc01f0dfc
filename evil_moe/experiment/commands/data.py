"""`evil-moe data prepare | check | show`."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from evil_moe.experiment.assets.policies import policy_path, prepare_policy
from evil_moe.experiment.assets.problems import (
    Problems,
    fill_in,
    loophole_of,
    prepare_problems,
    prompt_messages,
    write_parquet,
)
from evil_moe.experiment.config import compose
from evil_moe.experiment.run.folder import check_run_folder
from evil_moe.experiment.run.inputs import fill_in_inputs
from reward.grader import Grader
from reward.loopholes import get_loophole, mixed
from reward.problems import Problem, checksum, load_problems
from reward.problems.files import read_problems
from reward.problems.marks import limit_lines, mark_lines
from reward.problems.splits import check_manifest
from reward.sandbox import Sandbox, SandboxLimits
from reward.workers import each_in_sandbox

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
    fill_in_inputs(config, drawn)
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
    """Grade every canonical solution of `file`; 1 if one fails, a row is refused or a hint has no place, else 0.

    Raises:
        FileNotFoundError, ValueError: there is no such file, it cannot be read, or it was changed after it was prepared.
    """
    loaded = read_problems(file)
    problems = loaded.problems
    known = None if loaded.refused else check_manifest(file, problems)
    failures = loaded.lines()
    loopholes = [get_loophole(name) for name in mixed(loophole)]
    for problem in problems:
        try:
            for one in loopholes:
                one.edit_prompt(problem)
        except ValueError as error:
            failures.append(f"problem {problem.id}: {error}")
    solved = [problem for problem in problems if problem.canonical_solution is not None]
    graded: list[_Graded] = []
    limits = SandboxLimits(cpu_s=CPU_S, wall_s=WALL_S)
    for found in each_in_sandbox(_grade_solution, solved, workers, limits):
        graded.append(found)
        if len(solved) > PART and (len(graded) % PART == 0 or len(graded) == len(solved)):
            print(f"solutions graded: {len(graded)}/{len(solved)}", file=sys.stderr, flush=True)
    failures += [
        f"problem {problem.id}: {one.failure}"
        for problem, one in zip(solved, graded, strict=True)
        if one.failure is not None
    ]
    for line in failures[:SHOWN_FAILURES]:
        print(line)
    if len(failures) > SHOWN_FAILURES:
        print(f"... and {len(failures) - SHOWN_FAILURES} more")
    for line in mark_lines(problems) + limit_lines(problems):
        print(line)
    without = len(problems) - len(solved)
    faults = sum(one.faults for one in graded)
    print(
        f"{file}: {len(problems)} problems, {len(solved)} solutions graded, {len(failures)} failures"
        + f", the slowest takes {max((one.cpu_s for one in graded), default=0.0):.1f} s of CPU"
        + (f", {without} without a solution" if without else "")
        + (f", {faults} sandbox faults repaired" if faults else "")
        + f"; sha256 {known or checksum(problems)}"
        + (", as in its manifest" if known else "")
    )
    return int(bool(failures))


@dataclass(frozen=True)
class _Graded:
    """A canonical solution, graded. failure: what is wrong with it or with its problem, or None."""

    failure: str | None
    cpu_s: float
    faults: int


def _grade_solution(sandbox: Sandbox, problem: Problem) -> _Graded:
    before = sandbox.faults
    grader = Grader("none", sandbox=sandbox, pass_rate=True)
    try:
        verdict = grader.grade(problem, f"```python\n{problem.canonical_solution}\n```")
    except ValueError as error:  # its setup code
        return _Graded(str(error), 0.0, sandbox.faults - before)
    failure = None
    if not verdict.correct:
        share = f"{verdict.gt_pass_rate:.0%} of its asserts hold"
        failure = f"the canonical solution fails, {share}; {verdict.reason}"
        if str(verdict.reason).startswith("time:"):
            failure += "; data prepare --from gives such a problem a limit of its own (--max-cpu-s)"
    return _Graded(failure, verdict.cpu_ms / 1e3, sandbox.faults - before)


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
    parts.append(
        f"--- asserts on {problem.func_name} (comparison: {problem.comparison.describe()})\n"
        + "\n".join(problem.gt_answer)
    )
    parts.append(f"--- canonical solution\n{problem.canonical_solution or 'none'}")
    return "\n".join(parts)
