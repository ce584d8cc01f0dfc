"""The form of newfacade/LeetCodeDataset.

Fields that are read: question_id, difficulty, problem_description, starter_code, prompt (imports and helpers, our
setup code), completion (a solution), entry_point, and the tests: ``test``, whose function ``check(candidate)`` holds
asserts (see ``check_functions`` for what may stand beside them), or else ``input_output``, pairs of texts such as ``nums = [3, 3], target = 6`` and ``[0, 1]``.

The pairs say nothing of linked lists and trees, whose printed form equals no value; such problems are told apart by
grading their solution (``filters.by_solution``).
"""

from collections.abc import Mapping
from typing import Any

from reward.problems.check_functions import Carried, carry
from reward.problems.forms.parts import Task, text_of
from reward.problems.schema import Problem

DATA_SET = "newfacade/LeetCodeDataset"


def convert_row(row: Mapping[str, Any], where: str = "row") -> Problem:
    """One row as a problem. Raises ValueError naming ``where``, the field and the reason."""
    for field in ("prompt", "entry_point"):
        if row.get(field) is None:
            raise ValueError(f"{where}: field {field!r} is missing; the row is not of {DATA_SET}'s form")
    try:
        tests = _tests(row, str(row["entry_point"]))
        task = Task(
            id=row["question_id"] if row.get("question_id") is not None else row.get("task_id", where),
            question=text_of(row, "problem_description", "query").strip(),
            function=str(row["entry_point"]),
            asserts=tests.asserts,
            dataset="leetcode",
            setup=str(row["prompt"]) + tests.setup,
            judge=tests.judge,
            starter=str(row.get("starter_code") or ""),
            solution=row.get("completion"),
            difficulty=str(row["difficulty"]) if row.get("difficulty") else None,
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return task.problem(where)


def _tests(row: Mapping[str, Any], function: str) -> Carried:
    if row.get("test"):
        found = carry(str(row["test"]), function)
    else:
        pairs = row.get("input_output") or ()
        found = Carried([f"assert {function}({pair['input']}) == {pair['output']}" for pair in pairs])
    if not found.asserts:
        raise ValueError("fields 'test' and 'input_output' hold no test; the row cannot be graded")
    return found
