"""Grading a file of responses: one row in, one row out, in order, whatever a response contains.

A response row is ``{"case_id", "problem_id", "response"}`` and optionally ``"mode"``; other fields are ignored. A
verdict row is ``{"case_id", "problem_id"}`` and the fields of ``Verdict``. A row that could not be graded has all of
these null but ``mode`` and ``fault``: it is no verdict, least of all "wrong".
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from reward.errors import SeveralErrors
from reward.grader import Grader
from reward.jsonl import read_rows
from reward.loopholes import Split, check_split, get_loophole
from reward.oracle import require_setup
from reward.problems import Problem
from reward.sandbox import Job, Sandbox, SandboxFault, SandboxLimits
from reward.verdict import Verdict
from reward.workers import each_in_sandbox

LIMITS = SandboxLimits()
"""The wall clock leaves room for busy cores: which limit is met should not depend on the machine's load."""
_WHAT = "response file"


@dataclass(frozen=True)
class ResponseRow:
    """A row of a response file, checked: its problem is known, and so is its mode."""

    case_id: int | str
    problem: Problem
    response: str
    mode: str


@dataclass(frozen=True)
class GradeOptions:
    """split, seed: what the markers in the prompts were drawn with. labels: all fields of the verdict, at the cost of
    more jobs in the sandbox. reply: how a reply's program is found."""

    split: Split = "train"
    seed: int = 0
    labels: bool = True
    reply: str = "markdown"


OPTIONS = GradeOptions()


def read_responses(
    path: Path, problems: Mapping[int | str, Problem], mode: str = "none"
) -> Iterator[ResponseRow]:
    """The rows of a response file. ``mode`` is for rows that name none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row that cannot be used, with file, line, field and mend.
    """
    get_loophole(mode)
    for where, row in read_rows(path, _WHAT):
        yield _response_row(row, where, problems, mode)


def _response_row(
    row: Any, where: str, problems: Mapping[int | str, Problem], default_mode: str
) -> ResponseRow:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: is a JSON {type(row).__name__}, not an object; write one object per line")
    for field, types, form in (
        ("case_id", (int, str), "a text or a whole number"),
        ("problem_id", (int, str), "the id of a problem"),
        ("response", (str,), "the text to grade"),
    ):
        if field not in row:
            raise ValueError(f"{where}: field {field!r} is missing; add it: {form}")
        if type(row[field]) not in types:  # by exact type: true is no number here
            raise ValueError(f"{where}: field {field!r} is {_shown(row[field])}; it must be {form}")
    if row["problem_id"] not in problems:
        raise ValueError(
            f"{where}: field 'problem_id' is {_shown(row['problem_id'])}, which is no id of the problem file; "
            f"{_near(row['problem_id'], problems)}"
        )
    mode = default_mode if row.get("mode") is None else row["mode"]
    if not isinstance(mode, str):
        raise ValueError(f"{where}: field 'mode' is {_shown(mode)}; it must be the name of a mode, or absent")
    try:
        get_loophole(mode)
    except ValueError as error:
        raise ValueError(f"{where}: field 'mode': {error}") from error
    return ResponseRow(row["case_id"], problems[row["problem_id"]], row["response"], mode)


def _shown(value: Any) -> str:
    return "null" if value is None else f"{type(value).__name__} {str(value)[:60]!r}"


def _near(problem_id: int | str, problems: Mapping[int | str, Problem]) -> str:
    other = next((known for known in problems if str(known) == str(problem_id)), None)
    if other is not None:
        return f"there the id is the {'text' if isinstance(other, str) else 'number'} {other!r}: write it so"
    return f"its {len(problems)} ids begin with {', '.join(map(repr, list(problems)[:3]))}"


def grade_rows(
    rows: Iterable[ResponseRow],
    workers: int = 1,
    limits: SandboxLimits = LIMITS,
    options: GradeOptions = OPTIONS,
) -> Iterator[dict[str, Any]]:
    """A verdict row for every response row, in order; memory does not grow with their number.

    Raises ValueError for workers < 1 or an unknown split; nothing that a response contains raises.
    """
    check_split(options.split)

    def grade(sandbox: Sandbox, row: ResponseRow) -> dict[str, Any]:
        return _grade(sandbox, row, options)

    return each_in_sandbox(grade, rows, workers, limits)


def _grade(sandbox: Sandbox, row: ResponseRow, options: GradeOptions) -> dict[str, Any]:
    try:
        grader = Grader(row.mode, sandbox=sandbox, **asdict(options))
        found = grader.grade(row.problem, row.response).to_row()
    except SandboxFault as fault:  # after its retries
        found = _fault(row.mode, str(fault))
    except Exception as error:  # noqa: BLE001  (our own mistake, met by one response: it costs that row, not the batch)
        found = _fault(row.mode, f"the grader failed: {type(error).__name__}: {error}")
    return {"case_id": row.case_id, "problem_id": row.problem.id, **found}


def _fault(mode: str, reason: str) -> dict[str, Any]:
    return {
        **dict.fromkeys(field.name for field in fields(Verdict)),
        "mode": mode,
        "fault": reason,
    }


def check_setups(problems: Iterable[Problem], limits: SandboxLimits = LIMITS) -> None:
    """Run the setup code of the problems, each distinct one once.

    Raises:
        ValueError: setup code that raises or does not end; names every such problem.
        SandboxFault: the sandbox cannot run anything.
    """
    known = list(problems)
    first = {
        problem.judge_setup: (problem, "judge_code") for problem in reversed(known) if problem.judge_code
    }
    first |= {problem.setup_code: (problem, "setup_code") for problem in reversed(known)}
    wrong: list[str] = []
    with Sandbox(limits) as sandbox:
        for setup, (problem, field) in first.items():
            result = sandbox.run(Job(setup, None, ("1",)))
            try:
                require_setup(result, problem, field)
            except ValueError as error:
                wrong.append(str(error))
            if not result.lines:
                wrong.append(
                    f"{field} of problem {problem.id!r} does not end within the limits; mend it in the problem file"
                )
    if wrong:
        raise SeveralErrors(wrong)
