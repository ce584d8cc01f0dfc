"""The functions, classes and imports of a test's module, and which of them an expression needs."""

import ast
import sys
from collections.abc import Iterator, Mapping

Definition = ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom


class Definitions:
    """Definitions in their order, each with what the names around it stood for. Those of ``function``, which a response
    defines, are left out."""

    def __init__(self, function: str) -> None:
        self._function = function
        self._found: list[tuple[Definition, dict[str, ast.expr]]] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, node: Definition, names: Mapping[str, ast.expr]) -> None:
        """Take a definition."""
        if self._function not in _defined(node):
            self._found.append((node, dict(names)))

    def code(self, wanted: set[str]) -> str:
        """The definitions of wanted names, and what they need in turn: definitions, and values of names around them."""
        chosen: list[Definition] = []
        values: dict[str, ast.expr] = {}
        todo = {*wanted, "*"}
        while more := [one for one in self._found if one[0] not in chosen and todo & set(_defined(one[0]))]:
            for node, names in more:
                needed = _free_names(node)
                chosen.append(node)
                values |= {name: names[name] for name in sorted(needed & names.keys())}
                todo |= needed
        nodes: list[ast.stmt] = [
            ast.Assign([ast.Name(one, ast.Store())], value) for one, value in values.items()
        ]
        nodes += [node for node, _ in self._found if node in chosen]
        return "".join(f"{ast.unparse(ast.fix_missing_locations(node))}\n" for node in nodes)


def _free_names(node: Definition) -> set[str]:
    """Names that a definition reads and does not bind itself."""
    names = [one for one in ast.walk(node) if isinstance(one, ast.Name)]
    bound = {one.id for one in names if isinstance(one.ctx, ast.Store)}
    bound |= {one.arg for one in ast.walk(node) if isinstance(one, ast.arg)}
    return {one.id for one in names} - bound


def _defined(node: Definition) -> Iterator[str]:
    if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
        if (node.module or "").partition(".")[
            0
        ] in sys.stdlib_module_names:  # what it defines is not written out
            yield "*"
    elif isinstance(node, ast.Import | ast.ImportFrom):
        for one in node.names:
            yield one.asname or one.name.partition(".")[0]
    else:
        yield node.name
