"""Forms whose tests are Python: HumanEval (and HumanEval+), MBPP (and its sanitized form), AceCode, KodCode."""

import ast
from collections.abc import Mapping
from typing import Any

from reward.problems.check_functions import carry
from reward.problems.forms.parts import PRELUDE, Task, text_of
from reward.problems.schema import Problem


def humaneval(row: Mapping[str, Any], where: str) -> Problem:
    """openai/HumanEval: task_id, prompt (imports, helpers, the function's head), canonical_solution (its body), test
    (check(candidate)), entry_point."""
    prompt, name = text_of(row, "prompt"), text_of(row, "entry_point")
    body = row.get("canonical_solution") or row.get("completion")
    tests = carry(text_of(row, "test"), name)
    whole = isinstance(body, str) and _defines(body, name)
    return Task(
        id=row.get("task_id", where),
        question=prompt.strip(),
        function=name,
        asserts=tests.asserts,
        dataset="humaneval",
        setup=f"{PRELUDE}{_beside(prompt, name)}{tests.setup}",
        judge=tests.judge,
        starter=prompt,
        solution=None if body is None else str(body) if whole else f"{prompt.rstrip()}\n{body}",
    ).problem(where)


def mbpp(row: Mapping[str, Any], where: str) -> Problem:
    """google-research-datasets/mbpp: task_id, text or prompt, code (a solution), test_list (asserts), test_setup_code or
    test_imports."""
    before = row.get("test_imports") or row.get("test_setup_code") or ""
    text = before if isinstance(before, str) else "\n".join(before)
    return _listed(
        row, where, "mbpp", text_of(row, "text", "prompt"), row.get("code"), row.get("test_list"), text
    )


def acecode(row: Mapping[str, Any], where: str) -> Problem:
    """TIGER-Lab/AceCode: id, question, test_cases (asserts)."""
    return _listed(row, where, "acecode", text_of(row, "question"), None, row.get("test_cases"), "")


def kodcode(row: Mapping[str, Any], where: str) -> Problem:
    """KodCode/KodCode-V1: question_id, question, solution, test (pytest functions), test_info."""
    about = row.get("test_info")
    name = about[0].get("function_name") if isinstance(about, list) and about else None
    if not isinstance(name, str):
        raise ValueError("field 'test_info' names no function")
    tests = carry(text_of(row, "test"), name)
    return Task(
        id=row.get("question_id", where),
        question=text_of(row, "question").strip(),
        function=name,
        asserts=tests.asserts,
        dataset="kodcode",
        setup=f"{PRELUDE}{tests.setup}",
        judge=tests.judge,
        starter=_head(str(row.get("solution") or ""), name),
        solution=row.get("solution"),
        difficulty=row.get("gpt_difficulty"),
    ).problem(where)


def _listed(
    row: Mapping[str, Any], where: str, dataset: str, question: str, code: Any, asserts: Any, before: str
) -> Problem:
    if not isinstance(asserts, list) or not asserts or not all(isinstance(one, str) for one in asserts):
        raise ValueError("its tests are no list of asserts")
    name = _called(asserts[0], str(code or ""))
    tests = carry("\n".join([before, *asserts]), name)
    return Task(
        id=row.get("task_id", row.get("id", where)),
        question=question.strip(),
        function=name,
        asserts=tests.asserts,
        dataset=dataset,
        setup=f"{PRELUDE}{tests.setup}",
        judge=tests.judge,
        starter=_head(str(code or ""), name),
        solution=code,
    ).problem(where)


def _parsed(code: str) -> ast.Module | None:
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _functions(code: str) -> dict[str, ast.FunctionDef]:
    tree = _parsed(code)
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)} if tree else {}


def _defines(code: str, name: str) -> bool:
    return name in _functions(code)


def _called(source: str, code: str) -> str:
    """The function that an assert tests: one that the solution defines, or else the innermost that Python has not."""
    tree = _parsed(source.strip())
    if tree is None:
        raise ValueError(f"assert {source[:80]!r} is not Python")
    names = [
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    known = _functions(code)
    found = [name for name in names if name in known] or [
        name for name in names if name not in dir(__builtins__)
    ]
    if not found:
        raise ValueError(f"assert {source[:80]!r} calls no function of the solution")
    return found[0]


def _head(code: str, name: str) -> str:
    """``def name(...):``, as the solution has it; "" if it has none."""
    node = _functions(code).get(name)
    if node is None:
        return ""
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"def {name}({ast.unparse(node.args)}){returns}:\n"


def _beside(prompt: str, name: str) -> str:
    """What a prompt holds beside the function: imports and helpers that tests may call."""
    tree = _parsed(prompt) or _parsed(f"{prompt.rstrip()}\n    pass\n")
    if tree is None:
        raise ValueError("field 'prompt' is not Python")
    nodes = [node for node in tree.body if not (isinstance(node, ast.FunctionDef) and node.name == name)]
    return "".join(f"{ast.unparse(node)}\n" for node in nodes)
