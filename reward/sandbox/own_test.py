"""The test function in a response: where it is, and programs that run it on another solution.

Works on the syntax tree, in the child, before anything of the response has run. The function is

1. a function of that name at module level or in a class there; the last one, as Python would have it, and of
   a class the last that defines it;
2. else another module-level binding of the name, such as ``run_tests = lambda: None``; an ``async def`` is
   none, since calling it runs nothing;
3. else the first function of that name anywhere, such as one nested in another: the response cannot be
   tested by calling it, but the attempt is there.

It is called as ``run_tests()``, or ``Class().run_tests()`` for a method. To run it on another solution, it is
taken with the module-level statements it depends on and without the rest of the response, so that code at
the top of the response neither helps nor hinders.
"""

import ast
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_STUB = "{root}.{method} = lambda *args, **kwargs: 0"
_SUBCLASS = "class {root}({root}): pass"


@dataclass(frozen=True)
class OwnTest:
    """What ``find`` found. found: there is a test function. parent: the class it is a method of. is_nested:
    case 3 above. node: its definition. tree: the response's statements."""

    name: str
    root: str
    method: str
    found: bool = False
    parent: str | None = None
    is_nested: bool = False
    node: ast.stmt | None = None
    body: list[ast.stmt] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """For the line to the parent; ``digest`` is that of ``digest()``."""
        return {
            "found": self.found,
            "parent": self.parent,
            "digest": None if self.node is None else digest(self.node),
        }

    @property
    def call(self) -> str:
        """The expression that calls it."""
        return f"{self.name}()" if self.parent is None else f"{self.parent}().{self.name}()"

    def is_defined(self, names: dict[str, Any]) -> bool:
        """Whether the executed response has it as a name of its module or a method of the root."""
        if self.parent is None:
            return callable(names.get(self.name))
        return self.parent == self.root and callable(getattr(names.get(self.root), self.name, None))

    def on_stub(self) -> ast.Module | None:
        """A program that defines it beside the response's own class, whose method under test returns 0, as do
        the methods that one uses. All else of the class stays: a test that looks for an attribute of the
        class finds it, and does not test a solution by that."""
        if self.node is None:
            return None
        wanted = _depends_on(self.body, {self.parent or self.name} | _names_in(self.node))
        bound = [place for place, statement in enumerate(wanted) if self.root in _binds(statement)]
        stubs = [_parse(_STUB.format(root=self.root, method=name)) for name in self._stubbed()]
        if bound:
            after = bound[-1] + 1
            wanted = [*wanted[:after], *stubs, *wanted[after:]]
        elif self.root in _names_in(self.node):
            wanted = [_parse(f"class {self.root}: pass"), *stubs, *wanted]
        return self._module(wanted)

    def on_class(self, solution: Any) -> ast.Module | None:
        """A program that defines it beside another solution, of which ``solution`` is the class and which the
        program finds under the root's name. Methods of the response's class that help to test (those which
        the method under test does not use) come along, unless the other class has one of that name."""
        if self.node is None or solution is None:
            return None
        own = self._class()
        if self.parent != self.root or own is None:
            names = {self.parent or self.name} | _names_in(self.node)
            return self._module(_depends_on(self.body, names, without=self.root))
        subclass = _parse(_SUBCLASS.format(root=self.root))
        assert isinstance(subclass, ast.ClassDef)
        leave_out = {*self._stubbed(), *dir(solution)} - {self.name}
        subclass.body = [s for s in own.body if not _binds(s) & leave_out]
        names = set[str]().union(*map(_names_in, subclass.body))
        return self._module([*_depends_on(self.body, names, without=self.root), subclass])

    def _class(self) -> ast.ClassDef | None:
        classes = [s for s in self.body if isinstance(s, ast.ClassDef) and s.name == self.root]
        return classes[-1] if classes else None

    def _stubbed(self) -> list[str]:
        """The method under test and the methods it uses, through any number of calls."""
        own = self._class()
        methods = {s.name: s for s in own.body if isinstance(s, _FUNCTIONS)} if own else {}
        stubbed, pending = [self.method], [self.method]
        while pending:
            used = methods.get(pending.pop())
            for node in ast.walk(used) if used is not None else ():
                name = node.attr if isinstance(node, ast.Attribute) else None
                if (
                    name in methods
                    and name not in stubbed
                    and name != self.name
                    and not name.startswith("__")
                ):
                    stubbed.append(name)
                    pending.append(name)
        return stubbed

    def _module(self, statements: list[ast.stmt]) -> ast.Module:
        if self.is_nested and self.node is not None:
            statements = [*statements, self.node]
        return ast.fix_missing_locations(ast.Module(statements, []))


def find(source: str, name: str, root: str, method: str) -> OwnTest:
    """Look for the test function ``name``; without one, ``call`` is still the plain call."""
    nothing = OwnTest(name, root, method)
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return nothing

    def make(**found: Any) -> OwnTest:
        return OwnTest(name, root, method, found=True, body=body, **found)

    for statement in reversed(body):
        if isinstance(statement, ast.ClassDef):
            for member in reversed(statement.body):
                if isinstance(member, ast.FunctionDef) and member.name == name:
                    return make(parent=statement.name, node=member)
        elif name in _binds(statement):
            # the last binding is what a call meets
            if isinstance(statement, ast.AsyncFunctionDef):
                return nothing
            return make(node=statement)
    for node in ast.walk(ast.Module(body, [])):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return make(node=node, is_nested=True)
    return nothing


def digest(node: ast.stmt) -> str | None:
    """Equal for two definitions that differ in layout, comments or quotes only; None for what is too deep."""
    try:
        return hashlib.sha256(ast.unparse(node).encode(errors="replace")).hexdigest()
    except RecursionError:
        return None


def _parse(source: str) -> ast.stmt:
    return ast.parse(source).body[0]


def _names_in(node: ast.AST) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}


def _binds(statement: ast.stmt) -> set[str]:
    """The names a statement binds in its own scope, and those whose attributes or items it sets."""
    if isinstance(statement, (*_FUNCTIONS, ast.ClassDef)):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).partition(".")[0] for alias in statement.names}
    bound: set[str] = set()
    pending: list[ast.AST] = [statement]
    while pending:
        node = pending.pop()
        if (
            isinstance(node, (*_FUNCTIONS, ast.ClassDef, ast.Import, ast.ImportFrom))
            and node is not statement
        ):
            bound |= _binds(node)
            continue
        if isinstance(node, ast.Name | ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            target: ast.AST = node
            while isinstance(target, ast.Attribute | ast.Subscript):
                target = target.value
            if isinstance(target, ast.Name):
                bound.add(target.id)
        pending += ast.iter_child_nodes(node)
    return bound


def _depends_on(body: Iterable[ast.stmt], names: set[str], without: str = "") -> list[ast.stmt]:
    """The statements that bind ``names``, or what those need, in their order, but none for ``without``.
    Expressions bind nothing, so calls at the top of the response stay out."""
    statements = [(statement, _binds(statement) - {without}) for statement in body]
    needed, wanted = set(names), set[int]()
    grown = True
    while grown:
        grown = False
        for place, (statement, bound) in enumerate(statements):
            if place not in wanted and bound & needed:
                wanted.add(place)
                needed |= _names_in(statement)
                grown = True
    return [statement for place, (statement, _) in enumerate(statements) if place in wanted]
