"""A problem's setup code, compiled so that its star imports leave Python's own names alone.

Preludes of LeetCode-like sets say ``from math import *`` and ``from operator import *``, which make ``pow`` a
function without a modulus, while solutions are written against Python's. A name that builtins have is
therefore never taken from a star import; what a setup defines or imports by name stays as it says.
"""

import ast
import builtins
import types
from typing import Any

HELPER = "__import_all__"
_BUILTINS = frozenset(vars(builtins))


def compile_setup(source: str) -> types.CodeType:
    """The code, to be run in a namespace that ``prepare`` made. Raises SyntaxError or ValueError."""
    tree = ast.parse(source, "<setup>")
    if "*" in source:
        tree = ast.fix_missing_locations(_StarImports().visit(tree))
    return compile(tree, "<setup>", "exec", dont_inherit=True)


def prepare(names: dict[str, Any]) -> None:
    """Give a namespace what the compiled code's star imports call."""

    def import_all(module: str) -> None:
        found = vars(__import__(module, names, None, ("*",)))
        public = found.get("__all__", [name for name in found if not name.startswith("_")])
        names.update({name: found[name] for name in public if name not in _BUILTINS})

    names[HELPER] = import_all


class _StarImports(ast.NodeTransformer):
    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        if node.names[0].name != "*" or node.module is None or node.level or node.module == "__future__":
            return node
        call = ast.Call(ast.Name(HELPER, ast.Load()), [ast.Constant(node.module)], [])
        return ast.copy_location(ast.Expr(call), node)

    def _leave(self, node: ast.AST) -> ast.AST:
        return node  # a star import in there is an error, which stays one

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _leave
