"""Which problems are fit to train and measure on. Every filter says what it dropped, and why."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from reward.grader import Grader
from reward.problems.schema import Problem
from reward.sandbox import Sandbox, SandboxLimits
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
) -> Filtered:
    """Keep the problems whose canonical solution is graded correct within ``cpu_share`` of the limit on CPU time, so
    that a right answer somewhat slower than the canonical one still counts. keep_unsolved: also those that have none.

    Raises:
        ValueError: cpu_share outside (0, 1], or workers < 1.
        SandboxFault: the sandbox kept failing on one problem, which says nothing about the problem.
    """
    if not 0 < cpu_share <= 1:
        raise ValueError(f"cpu_share = {cpu_share}: must lie above 0 and at most at 1, e.g. 0.5")

    def judge(sandbox: Sandbox, problem: Problem) -> str | None:
        if problem.canonical_solution is None:
            return None if keep_unsolved else "there is none"
        return _solution_fails(sandbox, problem, 1e3 * cpu_share * limits.cpu_s)

    reasons: dict[int | str, str | None] = {}
    found = each_in_sandbox(judge, problems, workers, limits)
    for problem, reason in zip(problems, found, strict=True):
        reasons[problem.id] = reason
        if progress:
            progress(len(reasons), len(problems))
    return apply_rule(problems, "canonical solution", lambda problem: reasons[problem.id])


def _solution_fails(sandbox: Sandbox, problem: Problem, cpu_ms: float) -> str | None:
    grader = Grader("none", sandbox=sandbox, pass_rate=True)
    try:
        verdict = grader.grade(problem, f"```python\n{problem.canonical_solution}\n```")
    except ValueError as error:  # the problem's own setup code
        return str(error)
    if not verdict.can_compile:
        return "does not compile"
    if not verdict.correct:
        return f"fails, {verdict.gt_pass_rate or 0.0:.0%} of the asserts hold; {verdict.reason}"
    if verdict.cpu_ms > cpu_ms:
        return f"takes {verdict.cpu_ms / 1e3:.2f} s of CPU, more than {cpu_ms / 1e3:.2f}"
    return None
