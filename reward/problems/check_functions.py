"""The asserts of a test function such as ``check(candidate)``, each standing alone, as a problem has them.

A problem's assert calls the function under test once, and expected values must not reach the process of a response. So
what stands beside the asserts is carried into them, without running any of it: names are replaced by what was assigned
to them, loops over written-out values are unrolled, ``and`` is split, messages are dropped.

    x = [1, 2]                      ->  assert f([1, 2]) == 3
    assert candidate(x) == 3, "x"
    for a, b in [(1, 2), (2, 4)]:   ->  assert f(1) == 2
        assert candidate(a) == b        assert f(2) == 4
    got = candidate(5)              ->  assert (lambda answer: answer[0] < answer[1])(f(5))
    assert got[0] < got[1]
    close(candidate(1), 2.0)        ->  assert (close(f(1), 2.0), True)[1]
    candidate(nums)                 ->  assert (lambda changed: (f(changed), changed)[1])([2, 1]) == [1, 2]
    assert nums == [1, 2]

What cannot be carried (a ``while``, an expected exception, a random value used twice, two different calls in one assert)
refuses the problem with its line and its reason; nothing is left out in silence. Functions and imports of the test's
module come along as code for the judge, or for the setup where the arguments of a call need them.
"""

import ast
import copy
from collections.abc import Iterable
from dataclasses import dataclass

from reward.problems.definitions import Definitions
from reward.problems.expressions import applied, bound_around, indexed, replaced
from reward.problems.unroll import members, substitute, truth

MOST_ASSERTS, MOST_CHARACTERS = 20_000, 64_000_000
# An expression that names one of these may be another value each time it is evaluated.
_CHANGING = frozenset({
    "random", "randint", "randrange", "choice", "choices", "shuffle", "sample", "uniform", "gauss", "time", "perf_counter",
    "datetime", "urandom", "uuid", "uuid4", "input", "open", "next", "iter", "id",
})  # fmt: skip
_ANSWER, _CHANGED = "answer", "changed"


@dataclass(frozen=True)
class Carried:
    """asserts: each a statement that calls the function once. setup, judge: code of the test's module that the calls need,
    and that the rest of the asserts needs."""

    asserts: list[str]
    setup: str = ""
    judge: str = ""


def carry(test: str, function: str) -> Carried:
    """The asserts of ``check(candidate)`` in ``test``; without one, of its functions ``test_...`` or of its module.

    Raises ValueError with the line and the reason for what cannot be carried.
    """
    try:
        tree = ast.parse(test)
        target = ast.parse(function, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"field 'test' or 'entry_point' is not Python ({error})") from error
    checks = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "check"]
    tests = [
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    carrier = _Carrier(test, target)
    if checks:
        if len(checks[-1].args.args) != 1:
            raise ValueError("field 'test' defines no function check(candidate)")
        carrier.names[checks[-1].args.args[0].arg] = target
    elif not tests and not any(isinstance(node, ast.Assert) for node in tree.body):
        raise ValueError("field 'test' defines no function check(candidate), and holds no assert")
    for one in tests if not checks else []:
        if one.args.args:
            raise ValueError(
                f"field 'test', line {one.lineno}: {one.name} takes arguments; write its values out"
            )
    try:
        carrier.statements(node for node in tree.body if node not in checks + tests)
        for one in checks[-1:] or tests:
            carrier.statements(one.body)
        return carrier.carried()
    except RecursionError as error:
        raise ValueError("field 'test' is nested too deeply") from error


class _Carrier:
    """Walks statements and keeps what names stand for."""

    def __init__(self, source: str, target: ast.expr) -> None:
        self._lines = source.splitlines()
        self._function = ast.unparse(target)
        self._texts: list[str] = []
        self._size = 0
        self.names: dict[str, ast.expr] = {}
        self._changing: dict[str, int] = {}  # names of values that may change, and how often they were used
        self._asserts: list[ast.expr] = []
        self._definitions = Definitions(self._function.partition("(")[0].partition(".")[0])

    def statements(self, nodes: Iterable[ast.stmt]) -> None:
        for node in nodes:
            self._statement(node)

    def _statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Pass() | ast.Expr(value=ast.Constant()) | ast.Return(value=None | ast.Constant()):
                pass
            case ast.Assert():
                self._assert(self._put(node.test, node), node)
            case ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
                pass
            case ast.Assign(targets=targets):
                for target in targets:
                    self._bind(target, self._put(node.value, node), node)
            case ast.AnnAssign(value=ast.expr() as value):
                self._bind(node.target, self._put(value, node), node)
            case ast.AugAssign(target=ast.Name(id=name)):
                old = self._put(ast.Name(name, ast.Load()), node)
                self._bind(node.target, ast.BinOp(old, node.op, self._put(node.value, node)), node)
            case ast.For(orelse=[]):
                for item in self._members(self._put(node.iter, node), node):
                    self._bind(node.target, item, node)
                    self.statements(node.body)
            case ast.If() if (taken := truth(self._put(node.test, node))) is not None:
                self.statements(node.body if taken else node.orelse)
            case ast.Import() | ast.ImportFrom() | ast.FunctionDef() | ast.ClassDef():
                self._definitions.add(node, self.names)
            case ast.Expr(value=ast.Call() as call):
                self._expression(call, node)
            case _:
                raise self._refused(
                    node, f"is a statement ({type(node).__name__}) that cannot be carried into an assert"
                )

    def _expression(self, call: ast.Call, node: ast.stmt) -> None:
        """A call that stands alone: of the function, for what it does to its argument; of a helper that asserts; or print."""
        if ast.unparse(call.func) in ("print", "check"):
            return
        if self._is_function(call.func):
            made = self._put(call, node)
            assert isinstance(made, ast.Call)
            for place, argument in enumerate(call.args):
                if isinstance(argument, ast.Name) and argument.id in self.names:
                    self.names[argument.id] = self._changed_by(made, place)
            for place, keyword in enumerate(call.keywords):
                if isinstance(keyword.value, ast.Name) and keyword.value.id in self.names:
                    self.names[keyword.value.id] = self._changed_by(made, len(call.args) + place)
            return
        value = self._put(call, node)
        if not self._calls(value):
            raise self._refused(node, "does something that the asserts may depend on, and cannot be carried")
        self._assert(indexed(ast.Tuple([value, ast.Constant(True)], ast.Load()), 1), node)

    def _changed_by(self, call: ast.Call, place: int) -> ast.expr:
        """What an argument is after the call: (lambda changed: (f(changed), changed)[1])(argument)."""
        inner, name = copy.deepcopy(call), ast.Name(_CHANGED, ast.Load())
        if place < len(inner.args):
            argument, inner.args[place] = inner.args[place], name
        else:
            keyword = inner.keywords[place - len(inner.args)]
            argument, keyword.value = keyword.value, name
        return applied(_CHANGED, indexed(ast.Tuple([inner, name], ast.Load()), 1), argument)

    def _is_function(self, func: ast.expr) -> bool:
        return ast.unparse(substitute(func, self.names)) == self._function

    def _assert(self, test: ast.expr, node: ast.stmt) -> None:
        if isinstance(test, ast.Constant) and test.value:
            return  # assert True, "a message"
        parts = self._parts(test)
        if parts is not None:
            for part in parts:
                self._assert(part, node)
            return
        found = self._calls(test)
        calls = {ast.unparse(call) for call in found} if len(found) > 1 else set(map(id, found))
        if len(calls) != 1:
            count = (
                f"calls {self._function} {len(calls)} times" if calls else f"does not call {self._function}"
            )
            raise self._refused(
                node, f"{count}; an assert must call it once, so that its value can be judged"
            )
        if any(bound_around(test, call) for call in found):
            raise self._refused(
                node, f"calls {self._function} for each member of something that is not written out"
            )
        if len(found) > 1:
            test = applied(_ANSWER, replaced(test, found[0], _ANSWER), found[0])
        if (
            isinstance(test, ast.Compare)
            and [type(op) for op in test.ops] == [ast.Eq]
            and test.comparators[0] is found[0]
        ):
            test = ast.Compare(test.comparators[0], test.ops, [test.left])
        self._asserts.append(test)
        self._texts.append(f"assert {ast.unparse(test)}")
        self._size += len(self._texts[-1])
        if len(self._asserts) > MOST_ASSERTS or self._size > MOST_CHARACTERS:
            raise ValueError(
                f"field 'test' makes more than {MOST_ASSERTS} asserts or {MOST_CHARACTERS} characters of them; shorten it"
            )

    def _parts(self, test: ast.expr) -> list[ast.expr] | None:
        """The asserts that an assert stands for: of ``and``, ``all(...)`` and a list of answers; None for a single one."""
        match test:
            case ast.BoolOp(op=ast.And(), values=values):
                return values
            case ast.Call(func=ast.Name(id="all"), args=[one]):
                parts = members(one)
                return parts if parts is not None and all(map(self._calls, parts)) else None
            case ast.Compare(
                left=ast.List() | ast.ListComp() as left, ops=[ast.Eq()], comparators=[ast.List() as right]
            ):
                got, expected = members(left), members(right)
                if got is None or expected is None or not all(map(self._calls, got)):
                    return None
                if len(got) == len(expected):
                    return [
                        ast.Compare(one, [ast.Eq()], [other])
                        for one, other in zip(got, expected, strict=True)
                    ]
        return None

    def _members(self, value: ast.expr, node: ast.stmt) -> list[ast.expr]:
        found = members(value)
        if found is None:
            raise self._refused(node, "goes over values that are not written out")
        return found

    def _bind(self, target: ast.expr, value: ast.expr, node: ast.stmt) -> None:
        match target:
            case ast.Name(id=name):
                self.names[name] = value
                self._changing.pop(name, None)
                if any(isinstance(one, ast.Name) and one.id in _CHANGING for one in ast.walk(value)):
                    self._changing[name] = 0
            case ast.Tuple(elts=parts) | ast.List(elts=parts) if not any(
                isinstance(p, ast.Starred) for p in parts
            ):
                values = members(value)
                if values is None:
                    values = [indexed(value, place) for place in range(len(parts))]
                if len(values) != len(parts):
                    raise self._refused(node, f"unpacks {len(values)} values into {len(parts)} names")
                for part, one in zip(parts, values, strict=True):
                    self._bind(part, one, node)
            case _:
                raise self._refused(node, "changes a value in place, which cannot be carried into an assert")

    def _put(self, expression: ast.expr, node: ast.stmt) -> ast.expr:
        """The expression with names replaced by what they stand for."""
        used = False
        for one in ast.walk(expression):
            if isinstance(one, ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom):
                raise self._refused(node, "assigns or waits inside of an expression")
            if isinstance(one, ast.Name):
                used |= one.id in self.names
                if one.id in self._changing:
                    self._changing[one.id] += 1
                    if self._changing[one.id] > 1:
                        raise self._refused(
                            node, f"uses {one.id!r} again, which is another value each time (random, time)"
                        )
        return substitute(expression, self.names) if used else expression

    def _calls(self, expression: ast.expr) -> list[ast.Call]:
        return [
            one
            for one in ast.walk(expression)
            if isinstance(one, ast.Call) and ast.unparse(one.func) == self._function
        ]

    def _refused(self, node: ast.stmt, reason: str) -> ValueError:
        text = self._lines[node.lineno - 1].strip()[:80] if node.lineno <= len(self._lines) else ""
        return ValueError(f"field 'test', line {node.lineno}: {text!r} {reason}")

    def carried(self) -> Carried:
        for_calls, for_rest = set[str](), set[str]()
        for test in self._asserts if self._definitions else ():
            inside = {id(node) for call in self._calls(test) for node in ast.walk(call)}
            for node in ast.walk(test):
                if isinstance(node, ast.Name):
                    (for_calls if id(node) in inside else for_rest).add(node.id)
        setup, judge = self._definitions.code(for_calls), self._definitions.code(for_rest - for_calls)
        return Carried(self._texts, setup, judge)
