"""Marks on problems: the comparison that a statement asks for, written into the problem's own fields; and what is told of
marks and limits."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reward.checks import parse_checks
from reward.problems.schema import Problem
from reward.problems.statements import read_statement

SHOWN_IDS = 10


def mark(problem: Problem) -> Problem:
    """The problem with the comparison that its statement asks for, where its own fields do not decide."""
    found, shape = read_statement(statement_of(problem)), _Shape.of(problem)
    if problem.any_order is None and found.any_order and shape.several:
        problem = dataclasses.replace(problem, any_order=found.any_order if shape.nested else "outer")
    decided = problem.tolerance is not None or problem.relative_tolerance is not None
    if not decided and found.tolerance and shape.floats:
        problem = dataclasses.replace(
            problem, tolerance=found.tolerance, relative_tolerance=found.relative_tolerance
        )
    return problem


def takes_one_answer(problem: Problem) -> str | None:
    """The words of the statement by which several answers are right, where the asserts know one; else None."""
    words = read_statement(statement_of(problem)).any_answer
    return words if words and _Shape.of(problem).equal else None


def statement_of(problem: Problem) -> str:
    """What the problem asks: its question, and what users say in its prompt."""
    asked = [str(one["content"]) for one in problem.prompt if one["role"] == "user"]
    return "\n\n".join([problem.question, *(text for text in asked if problem.question not in text)])


@dataclass(frozen=True)
class _Shape:
    """What the expected values are. equal: some assert asks for equality. several: a sequence of two members or more, or no
    literal. nested: a sequence of sequences. floats: holds a float."""

    equal: bool = False
    several: bool = False
    nested: bool = False
    floats: bool = False

    @classmethod
    def of(cls, problem: Problem) -> "_Shape":
        equal = several = nested = floats = False
        for one in parse_checks(problem.gt_answer, problem.func_name, problem.setup_code):
            equal |= one.expected is not None or one.other is not None
            if one.expected is None:
                several |= one.other is not None
                nested |= one.other is not None
                floats |= one.other is not None
                continue
            members = _members(one.expected_data)
            several |= members is not None and len(members) > 1
            nested |= members is not None and any(_members(item) is not None for item in members)
            floats |= "." in one.expected or "e" in one.expected
        return cls(equal, several, nested, floats)


def _members(data: object) -> list[object] | None:
    if isinstance(data, dict) and data["t"] == "tuple":
        data = data["v"]
    return data if isinstance(data, list) else None


def mark_lines(problems: Sequence[Problem]) -> list[str]:
    """For people: which problems are compared how, which have a statement that asks for more than their fields allow, and
    which take one of several right answers. Empty for problems without any of it."""
    lines = []
    kinds = {problem.comparison.describe(): None for problem in problems if not problem.comparison.strict}
    for kind in kinds:
        lines.append(_line(f"compared {kind}", (p for p in problems if p.comparison.describe() == kind)))
    unmarked = [problem for problem in problems if mark(problem) != problem]
    if unmarked:
        lines.append(
            _line(
                "compared strictly, though their statements ask for less (data prepare marks them)", unmarked
            )
        )
    single = [(problem, words) for problem in problems if (words := takes_one_answer(problem))]
    if single:
        words = single[0][1][:60]
        lines.append(
            _line(
                f"of which several answers are right ({words!r} in the first), while the asserts take one answer only",
                (problem for problem, _ in single),
            )
        )
    return lines


def limit_lines(problems: Sequence[Problem]) -> list[str]:
    """For people: which problems have a limit of their own on CPU time."""
    slow = [problem for problem in problems if problem.cpu_s is not None]
    most = max((problem.cpu_s or 0.0 for problem in slow), default=0.0)
    return [_line(f"with a limit of its own on CPU time, of up to {most:g} s", slow)] if slow else []


def _line(what: str, problems: Iterable[Problem]) -> str:
    ids = [str(problem.id) for problem in problems]
    more = f", and {len(ids) - SHOWN_IDS} more" if len(ids) > SHOWN_IDS else ""
    return f"{len(ids)} problem{'s' * (len(ids) != 1)} {what}: {', '.join(ids[:SHOWN_IDS])}{more}"
