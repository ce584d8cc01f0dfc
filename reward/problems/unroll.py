"""Python expressions with names replaced by expressions, and the members of sequences that are written out."""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

MOST_MEMBERS = 20_000


def substitute(expression: ast.expr, names: Mapping[str, ast.expr]) -> ast.expr:
    """The expression with every free name of ``names`` replaced; an index into a display that is written out is taken.

    Parts are shared with what was given, which stays as it is.
    """
    replaced = _Substitute(names).visit(expression)
    assert isinstance(replaced, ast.expr)
    return replaced


def members(expression: ast.expr) -> list[ast.expr] | None:
    """The members of a display, and of range, enumerate, zip, list, tuple, reversed, .items() and comprehensions over
    such; None if they are not written out, or too many."""
    match expression:
        case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
            return None if any(isinstance(item, ast.Starred) for item in items) else list(items)
        case ast.Dict(keys=keys):
            return None if None in keys else [key for key in keys if key is not None]
        case ast.Constant(value=str(text)):
            return [ast.Constant(letter) for letter in text]
        case ast.Call(
            func=ast.Attribute(value=ast.Dict(keys=keys, values=values), attr=attr), args=[], keywords=[]
        ):
            if None in keys or attr not in ("items", "keys", "values"):
                return None
            pairs = [(key, value) for key, value in zip(keys, values, strict=True) if key is not None]
            chosen = {"items": [_tuple(*pair) for pair in pairs], "keys": [pair[0] for pair in pairs]}
            return chosen.get(attr, [pair[1] for pair in pairs])
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            return _of_call(name, args)
        case ast.ListComp(elt=elt, generators=[one]) | ast.GeneratorExp(elt=elt, generators=[one]):
            over = members(one.iter)
            if over is None or one.ifs or one.is_async:
                return None
            bound = [_bindings(one.target, item) for item in over]
            return None if None in bound else [substitute(elt, names) for names in bound if names is not None]
    return None


_HOLDS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda one, other: one in other,
    ast.NotIn: lambda one, other: one not in other,
}


def truth(expression: ast.expr) -> bool | None:
    """Whether a condition on written-out values holds; None if it is another."""
    match expression:
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            found = truth(operand)
            return None if found is None else not found
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            try:
                return bool(_HOLDS[type(op)](ast.literal_eval(left), ast.literal_eval(right)))
            except (ValueError, TypeError, MemoryError, RecursionError):
                return None
    try:
        return bool(ast.literal_eval(expression))
    except (ValueError, TypeError, MemoryError, RecursionError):
        return None


def _of_call(name: str, args: list[ast.expr]) -> list[ast.expr] | None:
    if name == "range":
        numbers = [_integer(arg) for arg in args]
        if not 1 <= len(numbers) <= 3 or None in numbers or numbers[2:] == [0]:
            return None
        found = range(*[number for number in numbers if number is not None])
        few = not found[MOST_MEMBERS:]  # len() of a large one raises
        return [ast.Constant(number) for number in found] if few else None
    sides = [members(arg) for arg in args[: 1 if name == "enumerate" else None]]
    known = [side for side in sides if side is not None]
    if len(known) != len(sides) or not known:
        return None
    if name == "zip":
        return [_tuple(*pair) for pair in zip(*known, strict=False)]
    if name == "enumerate" and len(args) <= 2:
        start = _integer(args[1]) if len(args) == 2 else 0
        return (
            None
            if start is None
            else [_tuple(ast.Constant(start + n), one) for n, one in enumerate(known[0])]
        )
    if name in ("list", "tuple", "iter", "reversed") and len(args) == 1:
        return known[0][::-1] if name == "reversed" else known[0]
    return None


def _integer(expression: ast.expr) -> int | None:
    match expression:
        case ast.Constant(value=int(number)):
            return number
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(number))):
            return -number
        case ast.Call(func=ast.Name(id="len"), args=[one], keywords=[]):
            found = members(one)
            return None if found is None else len(found)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as op, right=right):
            first, second = _integer(left), _integer(right)
            if first is not None and second is not None:
                return first + second if isinstance(op, ast.Add) else first - second
    return None


def _bindings(target: ast.expr, value: ast.expr) -> dict[str, ast.expr] | None:
    if isinstance(target, ast.Name):
        return {target.id: value}
    values = members(value)
    if not isinstance(target, ast.Tuple | ast.List) or values is None or len(values) != len(target.elts):
        return None
    found: dict[str, ast.expr] = {}
    for part, one in zip(target.elts, values, strict=True):
        inner = _bindings(part, one)
        if inner is None:
            return None
        found |= inner
    return found


def _tuple(*items: ast.expr) -> ast.expr:
    return ast.Tuple(list(items), ast.Load())


class _Substitute(ast.NodeTransformer):
    def __init__(self, names: Mapping[str, ast.expr]) -> None:
        self._names = names

    def visit(self, node: ast.AST) -> ast.AST:
        return node if isinstance(node, ast.Constant) else super().visit(node)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """A new node, where NodeTransformer changes the old one."""
        made: dict[str, Any] = {}
        for name, value in ast.iter_fields(node):
            if isinstance(value, list):
                made[name] = [self.visit(one) if isinstance(one, ast.AST) else one for one in value]
            else:
                made[name] = self.visit(value) if isinstance(value, ast.AST) else value
        return type(node)(**made)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self._names.get(node.id, node)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        value, index = self.visit(node.value), self.visit(node.slice)
        assert isinstance(value, ast.expr) and isinstance(index, ast.expr)
        if isinstance(value, ast.List | ast.Tuple):
            place, items = _integer(index), members(value)
            if items is not None and place is not None and -len(items) <= place < len(items):
                return items[place]
        if isinstance(value, ast.Dict):
            for key, item in zip(value.keys, value.values, strict=True):
                if key is not None and ast.unparse(key) == ast.unparse(index):
                    return item
        return ast.Subscript(value, index, node.ctx)

    def _within(self, node: ast.expr, bound: set[str]) -> ast.AST:
        inner = _Substitute({name: value for name, value in self._names.items() if name not in bound})
        return inner.generic_visit(node)

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        arguments = node.args
        every = [
            *arguments.posonlyargs,
            *arguments.args,
            *arguments.kwonlyargs,
            arguments.vararg,
            arguments.kwarg,
        ]
        return self._within(node, {one.arg for one in every if one is not None})

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> ast.AST:
        bound = {
            one.id for part in node.generators for one in ast.walk(part.target) if isinstance(one, ast.Name)
        }
        return self._within(node, bound)

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _comprehension
