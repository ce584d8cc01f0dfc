"""Which problems are fit to train and measure on. Every filter says what it dropped, and why."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from reward.grader import Grader
from reward.problems.schema import MAX_CPU_S, Problem
from reward.sandbox import Sandbox, SandboxLimits
from reward.verdict import Verdict
from reward.workers import each_in_sandbox

Progress = Callable[[int, int], None]
"""Called with (done, all) as the work goes on."""


@dataclass(frozen=True)
class Dropped:
    """A problem that was left out. reason: a sentence for people, ``kind`` first, the measured value in it."""

    id: int | str
    kind: str
    reason: str


@dataclass(frozen=True)
class Filtered:
    """The problems that stay, in their order, and those that do not."""

    kept: list[Problem]
    dropped: list[Dropped]


def apply_rule(problems: Iterable[Problem], kind: str, rule: Callable[[Problem], str | None]) -> Filtered:
    """Drop the problems for which ``rule`` gives a reason."""
    kept: list[Problem] = []
    dropped: list[Dropped] = []
    for problem in problems:
        if (reason := rule(problem)) is None:
            kept.append(problem)
        else:
            dropped.append(Dropped(problem.id, kind, f"{kind}: {reason}"))
    return Filtered(kept, dropped)


def by_difficulty(problems: Iterable[Problem], wanted: Sequence[str]) -> Filtered:
    """Keep the problems of the named difficulties, e.g. medium and hard."""
    names = {name.lower() for name in wanted}

    def rule(problem: Problem) -> str | None:
        level = (problem.difficulty or "none").lower()
        return None if level in names else f"{level} is not one of {', '.join(wanted)}"

    return apply_rule(problems, "difficulty", rule)


def by_prompt_length(
    problems: Iterable[Problem], longest: int, measure: Callable[[Problem], int], unit: str
) -> Filtered:
    """Keep prompts of at most ``longest`` units by ``measure``: ``prompt_characters``, or a tokenizer's count."""

    def rule(problem: Problem) -> str | None:
        length = measure(problem)
        return None if length <= longest else f"{length} {unit}, more than {longest}"

    return apply_rule(problems, "prompt too long", rule)


def prompt_characters(problem: Problem) -> int:
    """Characters of all messages of the prompt."""
    return sum(len(message["content"]) for message in problem.prompt)


def without_repeats(problems: Iterable[Problem]) -> Filtered:
    """Keep the first problem of each question: a repeat could land in another split."""
    first: dict[str, int | str] = {}

    def rule(problem: Problem) -> str | None:
        known = first.setdefault(" ".join(problem.question.split()), problem.id)
        return None if known == problem.id else f"the same question as problem {known}"

    return apply_rule(problems, "repeated", rule)


def by_solution(
    problems: Sequence[Problem],
    limits: SandboxLimits,
    cpu_share: float = 0.5,
    workers: int = 1,
    progress: Progress | None = None,
    keep_unsolved: bool = False,
    max_cpu_s: float | None = None,
) -> Filtered:
    """Keep the problems whose canonical solution is graded correct within ``cpu_share`` of the limit on CPU time, so
    that a right answer somewhat slower than the canonical one still counts. keep_unsolved: also those that have none.

    max_cpu_s: a problem whose solution is slower gets a limit of its own (``Problem.cpu_s``, whole seconds) of up to so
    many seconds, of which its solution takes at most ``cpu_share``. None: it is dropped.

    Raises:
        ValueError: cpu_share outside (0, 1], max_cpu_s outside (0, MAX_CPU_S], or workers < 1.
        SandboxFault: the sandbox kept failing on one problem, which says nothing about the problem.
    """
    if not 0 < cpu_share <= 1:
        raise ValueError(f"cpu_share = {cpu_share}: must lie above 0 and at most at 1, e.g. 0.5")
    if max_cpu_s is not None and not 0 < max_cpu_s <= MAX_CPU_S:
        raise ValueError(f"max_cpu_s = {max_cpu_s}: must lie above 0 and at most at {MAX_CPU_S:g}, e.g. 20")

    def judge(sandbox: Sandbox, problem: Problem) -> Problem | str:
        if problem.canonical_solution is None:
            return problem if keep_unsolved else "there is none"
        return _in_time(sandbox, problem, cpu_share, max_cpu_s)

    kept: list[Problem] = []
    dropped: list[Dropped] = []
    kind = "canonical solution"
    found = each_in_sandbox(judge, problems, workers, limits)
    for done, (problem, outcome) in enumerate(zip(problems, found, strict=True), 1):
        if isinstance(outcome, Problem):
            kept.append(outcome)
        else:
            dropped.append(Dropped(problem.id, kind, f"{kind}: {outcome}"))
        if progress:
            progress(done, len(problems))
    return Filtered(kept, dropped)


def _in_time(sandbox: Sandbox, problem: Problem, cpu_share: float, max_cpu_s: float | None) -> Problem | str:
    """The problem, with a limit of its own where its solution needs one; or why it is dropped."""
    limit_s = max(sandbox.limits.cpu_s, problem.cpu_s or 0.0)
    ceiling_s = max(max_cpu_s or 0.0, limit_s)
    try:
        verdict = _grade_solution(sandbox, problem)
        if _timed_out(verdict) and ceiling_s > limit_s:
            verdict = _grade_solution(sandbox, dataclasses.replace(problem, cpu_s=ceiling_s))
    except ValueError as error:  # the problem's own setup code
        return str(error)
    if not verdict.can_compile:
        return "does not compile"
    if not verdict.correct:
        late = f"; up to {MAX_CPU_S:g} s can be allowed (max_cpu_s)" if _timed_out(verdict) else ""
        return f"fails, {verdict.gt_pass_rate or 0.0:.0%} of the asserts hold; {verdict.reason}{late}"
    taken_s = verdict.cpu_ms / 1e3
    if taken_s <= cpu_share * limit_s:
        return problem
    needed_s = math.ceil(taken_s / cpu_share)
    if needed_s <= ceiling_s and max_cpu_s is not None:
        return dataclasses.replace(problem, cpu_s=float(needed_s))
    return f"takes {taken_s:.2f} s of CPU, more than {cpu_share * ceiling_s:.2f}"


def _timed_out(verdict: Verdict) -> bool:
    return (verdict.reason or "").startswith("time:")


def _grade_solution(sandbox: Sandbox, problem: Problem) -> Verdict:
    grader = Grader("none", sandbox=sandbox, pass_rate=True)
    return grader.grade(problem, f"```python\n{problem.canonical_solution}\n```")
