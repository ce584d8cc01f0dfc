"""Which part of an assert is evaluated beside the response, in the process that holds no expected answer.

Mostly the one call of the problem's function. More of the assert where that call cannot stand alone: it uses a name of
a lambda or a comprehension around it (a list that is changed in place), it makes an object of the response's whose
methods are called (a design problem), or a function of the setup code makes such an object (a driver). The part grows to
the next expression that has a value of its own:

    (lambda a: (Solution().sort(a), a)[1])([2, 0, 1]) == [0, 1, 2]     the lambda's call
    (lambda c: [c.put(1, 1), c.get(1)])(LRUCache(2)) == [None, 1]      the lambda's call
    drive(["LRUCache", "get"], [[2], [1]]) == [None, -1]               the driver's call

What decides must stay outside. An assert whose part holds a comparison, or is true or false by what a helper beside the
response says, is refused: the response could change the helper.
"""

import ast
import builtins
import functools
import importlib
import sys
from collections.abc import Iterator

_MEND = "compare outside of it, like (lambda a: (Solution().sort(a), a)[1])([2, 1]) == [1, 2]"
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def part_beside(test: ast.expr, func: str, setup_code: str) -> ast.expr:
    """The part of ``test`` that is evaluated beside the response. Raises ValueError if there is none that leaves the
    decision outside."""
    parent = {child: node for node in ast.walk(test) for child in ast.iter_child_nodes(node)}
    function = ast.parse(func, mode="eval").body
    root = next(node.id for node in ast.walk(function) if isinstance(node, ast.Name))
    drivers, missing = _drivers(setup_code, root)
    is_class = isinstance(function, ast.Name) and root not in drivers and root[:1].isupper()
    calls = [
        node
        for node in ast.walk(test)
        if isinstance(node, ast.Call)
        and (
            (ast.unparse(node.func) == func and not is_class)
            or (isinstance(node.func, ast.Name) and node.func.id in drivers)
        )
    ]
    inside = {one for call in calls for one in ast.walk(call)}
    names = [node for node in _names(test) if node.id in {root, *missing, *drivers} and node not in inside]
    outermost = [
        call for call in calls if not any(call in ast.walk(other) for other in calls if other is not call)
    ]
    sources: list[ast.expr] = [*outermost, *names]
    if not sources:
        raise ValueError(f"calls {func} 0 times; it must call it once, so that its value can be judged")
    part = _enclosing(sources, parent)
    ours = {root, *missing} - drivers
    while not _stands_alone(part, parent, ours if names else set()) or ast.unparse(part) == func:
        if part is test:
            raise ValueError(f"has no part with {func} whose value can be brought out as data; {_MEND}")
        part = parent[part]
    assert isinstance(part, ast.expr)
    if part in calls and not drivers & {node.id for node in _names(part)}:
        return part
    if isinstance(part, ast.Compare | ast.UnaryOp | ast.BoolOp):
        raise ValueError(
            f"calls {func} {len(sources)} times; it must call it once, so that its value can be judged"
        )
    if any(isinstance(node, ast.Compare) for node in ast.walk(part)):
        raise ValueError(f"compares beside the response, which could see what is expected; {_MEND}")
    helpers = [
        node.func.id
        for node in ast.walk(part)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id not in ours
    ]
    if helpers and _decides(part, test, parent):
        raise ValueError(
            f"is decided by {helpers[0]}, which runs beside the response, which could change it; let it return the "
            f"values, and {_MEND}"
        )
    return part


def _names(node: ast.AST) -> Iterator[ast.Name]:
    return (one for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Load))


def _enclosing(nodes: list[ast.expr], parent: dict[ast.AST, ast.AST]) -> ast.AST:
    """The smallest node that holds them all."""
    one: ast.AST = nodes[0]
    while not set(nodes) <= set(ast.walk(one)):
        one = parent[one]
    return one


def _stands_alone(part: ast.AST, parent: dict[ast.AST, ast.AST], ours: set[str]) -> bool:
    """Whether it is an expression with a value of its own that is, as far as its form tells, data. ours: names of the
    response's that stand for classes or functions here."""
    if not isinstance(part, ast.expr) or isinstance(part, ast.Lambda | ast.Starred):
        return False
    above = parent.get(part)
    if isinstance(above, ast.Call) and above.func is part:
        return False  # what is called
    if isinstance(part, ast.Tuple | ast.List) and isinstance(above, ast.Subscript):
        return False  # what is not picked out of it may be an object
    if ours:
        if isinstance(part, ast.Name) or isinstance(above, ast.Attribute):
            return False  # a class or a function; an object with a method
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id in ours:
            return False  # an object
    return not _shared(part, parent)


def _shared(part: ast.AST, parent: dict[ast.AST, ast.AST]) -> set[str]:
    """Names in ``part`` that an expression around it binds, and names that it binds for one around it."""
    within, whole, outer = set(ast.walk(part)), part, set[str]()
    while whole in parent:
        whole = parent[whole]
        if isinstance(whole, ast.Lambda):
            outer |= {one.arg for one in ast.walk(whole.args) if isinstance(one, ast.arg)}
        if isinstance(whole, _COMPREHENSIONS):
            outer |= {
                one.id
                for way in whole.generators
                for one in ast.walk(way.target)
                if isinstance(one, ast.Name)
            }
    named = {one.target.id for one in ast.walk(whole) if isinstance(one, ast.NamedExpr)}
    used = {one.id for one in within if isinstance(one, ast.Name)}
    beyond = {one.id for one in ast.walk(whole) if isinstance(one, ast.Name) and one not in within}
    return used & (outer | named & beyond)


def _decides(part: ast.AST, test: ast.expr, parent: dict[ast.AST, ast.AST]) -> bool:
    """Whether the assert asks no more of the part's value than whether it is true."""
    while part is not test:
        part = parent[part]
        if isinstance(part, ast.Compare):
            sides = [part.left, *part.comparators]
            return any(isinstance(side, ast.Constant) and isinstance(side.value, bool) for side in sides)
        if not isinstance(part, ast.UnaryOp | ast.BoolOp | ast.IfExp):
            return isinstance(part, ast.Call) and ast.unparse(part.func) in ("bool", "all", "any")
    return True


@functools.lru_cache(maxsize=256)
def _drivers(setup_code: str, root: str) -> tuple[frozenset[str], frozenset[str]]:
    """(functions of the setup code that use the response's names, names they use that are nowhere defined)."""
    try:
        tree = ast.parse(setup_code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return frozenset(), frozenset()  # told where the problem is loaded
    all_known = True
    known = set(vars(builtins)) | {"__name__", "__file__", "__doc__"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            known.add(node.id)
        elif isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            known.add(node.name)
        elif isinstance(node, ast.arg):
            known.add(node.arg)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            known.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            known |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
                if (node.module or "").partition(".")[0] in sys.stdlib_module_names:
                    known |= set(dir(importlib.import_module(str(node.module))))
                else:
                    all_known = False
    functions = {
        node.name: {one.id for one in _names(node)} for node in tree.body if isinstance(node, _FUNCTIONS)
    }
    used = set[str]().union(*functions.values())
    missing = used - known if all_known else set()
    drivers: set[str] = set()
    while (
        more := {name for name, uses in functions.items() if uses & {*missing, root, *drivers} - {name}}
        - drivers
    ):
        drivers |= more
    return frozenset(drivers), frozenset(missing)
