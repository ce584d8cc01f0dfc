"""Python expressions, made and searched."""

import ast
import copy


def bound_around(test: ast.expr, call: ast.Call) -> bool:
    """Whether a call uses a name that a comprehension around it binds."""
    used = {one.id for one in ast.walk(call) if isinstance(one, ast.Name)}
    loops = [
        one
        for one in ast.walk(test)
        if isinstance(one, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp)
    ]
    around = [one for one in loops if any(inner is call for inner in ast.walk(one))]
    targets = [part.target for one in around for part in one.generators]
    return any(isinstance(one, ast.Name) and one.id in used for target in targets for one in ast.walk(target))


def indexed(value: ast.expr, place: int) -> ast.expr:
    """value[place]"""
    return ast.Subscript(value, ast.Constant(place), ast.Load())


def applied(name: str, body: ast.expr, argument: ast.expr) -> ast.Call:
    """(lambda name: body)(argument)"""
    arguments = ast.arguments(
        posonlyargs=[], args=[ast.arg(name)], kwonlyargs=[], kw_defaults=[], defaults=[]
    )
    return ast.Call(ast.Lambda(arguments, body), [argument], [])


def replaced(expression: ast.expr, call: ast.Call, name: str) -> ast.expr:
    """A copy with every call that reads like ``call`` replaced by a name."""
    made = _ReplaceAll(ast.unparse(call), name).visit(copy.deepcopy(expression))
    assert isinstance(made, ast.expr)
    return made


class _ReplaceAll(ast.NodeTransformer):
    def __init__(self, call: str, name: str) -> None:
        self._call, self._name = call, name

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if ast.unparse(node) == self._call:
            return ast.Name(self._name, ast.Load())
        return self.generic_visit(node)
