"""The asserts of a problem, split into what the response computes and what is compared with it.

``assert Solution().f(x = 1) == [2]`` becomes the call ``Solution().f(x = 1)``, evaluated beside the response,
and the expected data ``[2]``, which never enters that process. In an assert of any other shape the value of the part that
needs the response (see ``beside``; mostly the one call), brought back as data, takes that part's place, and the rest is
judged in a fresh process that has executed the setup code and not the response:

    assert is_same_list(Solution().f(...), list_node([1, 2]))   ->   bool(is_same_list(VALUE, list_node([1,
    2])))
"""

import ast
import contextlib
import functools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from reward.beside import part_beside
from reward.sandbox import codec

VALUE = "__value__"


@dataclass(frozen=True)
class Check:
    """One assert. call: the expression for the response. expected: JSON text of the literal's data, or None
    if ``judge`` holds the rest of the assert, an expression over the name VALUE. other: what the value must equal,
    an expression, where the assert is ``call == other`` or ``other == call`` and ``other`` is no literal."""

    call: str
    expected: str | None
    judge: str | None
    other: str | None = None

    @functools.cached_property
    def expected_data(self) -> Any:
        """The data of the literal. Only for a check with ``expected``."""
        assert self.expected is not None
        return json.loads(self.expected)


@functools.lru_cache(maxsize=4096)
def parse_checks(asserts: tuple[str, ...], func_name: str, setup_code: str = "") -> tuple[Check, ...]:
    """The checks of a problem. setup_code: tells which of its functions need the response. Raises ValueError naming the position and text of an assert it cannot use."""
    checks = []
    for index, source in enumerate(asserts):
        try:
            with _any_digits():
                checks.append(_parse(source, ast.unparse(ast.parse(func_name, mode="eval")), setup_code))
        except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
            raise ValueError(f"assert {index} ({source[:120]!r}): {error}") from error
    return tuple(checks)


@functools.lru_cache(maxsize=4096)
def root_name(func_name: str) -> str:
    """The name that a func_name such as "Solution().foo" starts from. Raises ValueError if there is none."""
    try:
        node: ast.AST = ast.parse(func_name, mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise ValueError(
            f"func_name {func_name!r} is not an expression; write it like 'Solution().foo'"
        ) from error
    while isinstance(node, ast.Attribute | ast.Call):
        node = node.value if isinstance(node, ast.Attribute) else node.func
    if not isinstance(node, ast.Name):
        raise ValueError(
            f"func_name {func_name!r} does not start with a name; write it like 'Solution().foo'"
        )
    return node.id


@contextlib.contextmanager
def _any_digits() -> Iterator[None]:
    """Python's limit on the digits of a number guards against text of strangers; a problem's asserts may be longer."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(before)


class _Hex(int):
    """An int that is written in hexadecimal, which Python reads at any length."""

    def __repr__(self) -> str:
        return hex(self)


class _LongInts(ast.NodeTransformer):
    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if type(node.value) is int and node.value >= codec.LONG_INT:
            return ast.Constant(_Hex(node.value))
        return node


def _parse(source: str, func: str, setup_code: str) -> Check:
    body = ast.parse(source.strip()).body
    if len(body) != 1 or not isinstance(body[0], ast.Assert):
        raise ValueError("is not one assert statement; write it as 'assert <call> == <literal>'")
    test = body[0].test
    part = part_beside(test, func, setup_code)
    call = ast.unparse(_LongInts().visit(part))
    if isinstance(test, ast.Compare) and test.left is part and [type(op) for op in test.ops] == [ast.Eq]:
        try:
            literal = codec.encode(ast.literal_eval(test.comparators[0]))
        except ValueError:
            pass  # not a literal: judged below
        else:
            return Check(call, json.dumps(literal), None)
    test = _LongInts().visit(test)
    other = _other_side(test, part)
    return Check(call, None, f"bool({ast.unparse(_Replace(part).visit(test))})", other)


def _other_side(test: ast.expr, call: ast.expr) -> str | None:
    if not isinstance(test, ast.Compare) or [type(op) for op in test.ops] != [ast.Eq]:
        return None
    sides = [test.left, test.comparators[0]]
    return ast.unparse(sides[1 - sides.index(call)]) if call in sides else None


class _Replace(ast.NodeTransformer):
    def __init__(self, part: ast.expr) -> None:
        self._part = part

    def visit(self, node: ast.AST) -> Any:
        return ast.Name(VALUE, ast.Load()) if node is self._part else super().visit(node)
