"""Problems from a LeetCode data set on the Hugging Face hub, with the fields of newfacade/LeetCodeDataset.

Fields that are read: question_id, difficulty, problem_description, starter_code, prompt (imports and helpers, our
setup code), completion (a solution), entry_point, and the tests: ``test``, whose function ``check(candidate)`` holds
asserts, or else ``input_output``, pairs of texts such as ``nums = [3, 3], target = 6`` and ``[0, 1]``.

The pairs say nothing of linked lists and trees, whose printed form equals no value; such problems are told apart by
grading their solution (``filters.by_solution``).
"""

import ast
from collections.abc import Iterable, Mapping
from typing import Any

from reward.problems.filters import Dropped, Filtered
from reward.problems.schema import Problem

DATA_SET = "newfacade/LeetCodeDataset"
_SYSTEM = "You write Python. Answer with one complete program in a ```python block."
# Loopholes put their hint in the place of "and should pass all tests".
_CLOSING = "Write the method {method} of the class Solution; it must be correct and efficient, and should pass all tests."


def load_leetcode(name: str = DATA_SET, split: str = "train", revision: str | None = None) -> Filtered:
    """Download and convert a data set; what cannot be converted is dropped with its reason.

    Raises ValueError if the package `datasets` is missing, or the data set cannot be had.
    """
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"reading {name} from the hub needs the package datasets; pip install datasets, or give a file"
        ) from error
    try:
        rows = datasets.load_dataset(name, split=split, revision=revision)
    except Exception as error:  # the libraries below it raise classes of their own, with no common base
        raise ValueError(
            f"cannot load split {split!r} of {name} from the hub ({type(error).__name__}: {str(error)[:200]}); check the "
            "name and the network, or copy the problems over as a .jsonl file and give that"
        ) from error
    return convert_rows(rows, name)


def convert_rows(rows: Iterable[Mapping[str, Any]], dataset: str = DATA_SET) -> Filtered:
    """Problems of the rows that can be converted; the others with their reason."""
    kept: list[Problem] = []
    dropped: list[Dropped] = []
    for number, row in enumerate(rows):
        try:
            kept.append(convert_row(row, f"{dataset}, row {number}"))
        except ValueError as error:
            name = row.get("question_id", row.get("task_id", number))
            dropped.append(Dropped(name, "not converted", f"not converted: {error}"))
    return Filtered(kept, dropped)


def convert_row(row: Mapping[str, Any], where: str = "row") -> Problem:
    """One row as a problem. Raises ValueError naming ``where``, the field and the reason."""
    for field in ("question_id", "problem_description", "starter_code", "prompt", "entry_point"):
        if row.get(field) is None:
            raise ValueError(f"{where}: field {field!r} is missing; the row is not of {DATA_SET}'s form")
    function, question = str(row["entry_point"]), str(row["problem_description"]).strip()
    starter = str(row["starter_code"]).rstrip()
    text = f"{question}\n\n{_CLOSING.format(method=function.rpartition('.')[2])} Begin with:\n```python\n{starter}\n```"
    return Problem.from_row(
        {
            "id": row["question_id"],
            "prompt": [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": text}],
            "question": question,
            "func_name": function,
            "setup_code": str(row["prompt"]),
            "gt_answer": _asserts(row, function, where),
            "canonical_solution": row.get("completion"),
            "prompt_metadata": {"starter_code": str(row["starter_code"])},
            "difficulty": str(row["difficulty"]).lower() if row.get("difficulty") else None,
            "dataset": "leetcode",
            "evaluator": "code",
        },
        where,
    )


def _asserts(row: Mapping[str, Any], function: str, where: str) -> list[str]:
    if row.get("test"):
        found = _asserts_of_test(str(row["test"]), function, where)
    else:
        found = [_assert_of_pair(pair, function) for pair in row.get("input_output") or ()]
    if not found:
        raise ValueError(f"{where}: fields 'test' and 'input_output' hold no test; the row cannot be graded")
    return found


def _asserts_of_test(test: str, function: str, where: str) -> list[str]:
    """The asserts of ``check``, with its argument replaced by the function under test."""
    try:
        tree = ast.parse(test)
        target = ast.parse(function, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{where}: field 'test' or 'entry_point' is not Python ({error})") from error
    checks = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "check"]
    if not checks or len(checks[0].args.args) != 1:
        raise ValueError(f"{where}: field 'test' defines no function check(candidate)")
    rename = _Rename(checks[0].args.args[0].arg, target)
    return [ast.unparse(rename.visit(node)) for node in checks[0].body if isinstance(node, ast.Assert)]


def _assert_of_pair(pair: Mapping[str, Any], function: str) -> str:
    return f"assert {function}({pair['input']}) == {pair['output']}"


class _Rename(ast.NodeTransformer):
    def __init__(self, name: str, target: ast.expr) -> None:
        self._name, self._target = name, target

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self._target if node.id == self._name else node
