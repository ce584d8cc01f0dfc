"""Python values as JSON data, with a tag wherever JSON would lose the type.

None, bool, int, float and str are themselves, a list is a JSON list; everything else is ``{"t": tag, "v": ...}``:

    tuple, deque, range, iterator      a list of items; an iterator or generator is walked to its end
    set, frozenset, keys, items        a list in the order of its encodings, so that equal ones encode equally
    dict, values                       pairs, in the order of the keys' encodings; a list
    int                                hexadecimal text, for an int that is too long for JSON
    bytes                              hexadecimal text; also of a bytearray
    complex, Fraction, Decimal         two numbers; two ints; text
    ListNode, TreeNode                 values in order; values by level

A value of a subclass (an IntEnum, a namedtuple, a Counter) is carried as its base: it equals what its base equals,
unless a class of its own defines equality, and then it has no encoding, like an object of any other type; its call
counts as failed. No method that a response wrote on a subclass is called.
"""

import collections
import decimal
import fractions
import itertools
import json
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 64
#: Types of loaded packages, and what makes the value of Python's own type that such a value equals.
PLAIN: dict[type, Callable[[Any], Any]] = {}
LONG_INT = 1 << 8192  # below it JSON takes an int, whatever limit on digits is set on either side
_SCALARS = frozenset({type(None), bool, int, float, str})
_SETS = ("set", "frozenset", "keys", "items")
_WALKED: tuple[Any, ...] = (
    [],
    (),
    "",
    b"",
    bytearray(),
    set(),
    range(0),
    range(1 << 99),
    collections.deque(),
)
_VIEWS: tuple[Any, ...] = ({}, {}.values(), {}.items())
_BACKWARDS: tuple[Any, ...] = ([], collections.deque(), *_VIEWS)
_NOTHING: tuple[Any, ...] = ()
_CLASSES: tuple[type, ...] = tuple(one for one in vars(itertools).values() if isinstance(one, type))
_ITERATORS: frozenset[type] = frozenset(
    [type(iter(one)) for one in (*_WALKED, *_VIEWS)]
    + [type(reversed(one)) for one in _BACKWARDS]
    + [type(one for one in _NOTHING), filter, map, zip, enumerate, reversed]
    + [one for one in _CLASSES if hasattr(one, "__next__")]
)
_TAGS = {
    tuple: "tuple",
    collections.deque: "deque",
    set: "set",
    frozenset: "frozenset",
    type({}.keys()): "keys",
    type({}.items()): "items",
    type({}.values()): "values",
}
# The bases of subclasses, and what makes the base's value of one without a method of the subclass.
_BASES: dict[type, Callable[[Any], Any]] = {
    int: lambda value: int.__add__(value, 0),
    float: float.__float__,
    str: lambda value: str.__add__(value, ""),
    bytes: lambda value: bytes.__add__(value, b""),
    list: lambda value: [*list.__iter__(value)],
    tuple: lambda value: (*tuple.__iter__(value),),
    set: lambda value: {*set.__iter__(value)},
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
    dict: lambda value: {key: dict.__getitem__(value, key) for key in dict.__iter__(value)},
    collections.deque: lambda value: collections.deque(collections.deque.__iter__(value)),
}
_PYTHONS_DICTS = (collections.Counter, collections.OrderedDict, collections.defaultdict)
# Bound now: a response may later rebind the names in builtins or json.
_type, _len, _list, _sorted, _dumps, _items, _dict = type, len, list, sorted, json.dumps, dict.items, dict
_int, _error, _any, _hex, _range, _complex = int, ValueError, any, hex, range, complex
_bytes, _bytearray, _bytes_hex, _bytearray_hex = bytes, bytearray, bytes.hex, bytearray.hex
_fraction, _decimal, _decimal_text = fractions.Fraction, decimal.Decimal, decimal.Decimal.__str__
_is_scalars = _SCALARS.issuperset
_type_name = type.__dict__["__name__"].__get__
_order_of_classes, _names_of_class = type.__dict__["__mro__"].__get__, type.__dict__["__dict__"].__get__


def encode(value: Any, depth: int = 0) -> Any:
    """The JSON data of ``value``. Raises ValueError for a type without encoding or deeper than MAX_DEPTH."""
    kind = _type(value)
    if kind in _SCALARS:
        if kind is _int and not -LONG_INT < value < LONG_INT:
            return {"t": "int", "v": _hex(value)}
        return value
    if depth > MAX_DEPTH:
        raise _error("value nested too deeply")
    if kind is _list:
        kinds = {_type(item) for item in value}
        if _is_scalars(kinds) and not (_int in kinds and _any(_is_long(item) for item in value)):
            return value
        return [encode(item, depth + 1) for item in value]
    if kind is _dict or kind in _PYTHONS_DICTS:
        pairs = [[encode(key, depth + 1), encode(item, depth + 1)] for key, item in _items(value)]
        return {"t": "dict", "v": _sorted(pairs, key=lambda pair: _dumps(pair[0]))}
    if kind in _TAGS:
        items = [encode(item, depth + 1) for item in value]
        tag = _TAGS[kind]
        return {"t": tag, "v": _sorted(items, key=_dumps) if tag in _SETS else items}
    if kind in _ITERATORS:
        return {"t": "iterator", "v": [encode(item, depth + 1) for item in value]}
    if kind is _bytes or kind is _bytearray:
        return {"t": "bytes", "v": (_bytes_hex if kind is _bytes else _bytearray_hex)(value)}
    if kind is _complex:
        return {"t": "complex", "v": [value.real, value.imag]}
    if kind is _range:
        return {"t": "range", "v": [encode(one) for one in (value.start, value.stop, value.step)]}
    if kind is _fraction:
        return {"t": "Fraction", "v": [encode(value.numerator), encode(value.denominator)]}
    if kind is _decimal:
        return {"t": "Decimal", "v": _decimal_text(value)}
    name = _type_name(kind)
    if name == "ListNode":
        return {"t": "ListNode", "v": _linked_list(value, depth)}
    if name == "TreeNode":
        return {"t": "TreeNode", "v": _tree(value, depth)}
    if kind in PLAIN:
        return encode(PLAIN[kind](value), depth + 1)
    return encode(_as_base(value, kind), depth + 1)


def _is_long(value: Any) -> bool:
    return _type(value) is _int and not -LONG_INT < value < LONG_INT


def _as_base(value: Any, kind: type) -> Any:
    """The value of the base that a subclass without an equality of its own equals. Raises ValueError if there is none."""
    for one in _order_of_classes(kind):
        if one in _BASES:
            return _BASES[one](value)
        names = _names_of_class(one)
        if one not in _PYTHONS_DICTS and ("__eq__" in names or "__ne__" in names):
            break
    raise _error("a value of this type cannot be returned")


def _linked_list(node: Any, depth: int) -> list[Any]:
    """Values in order; a cycle ends at the job's memory or time limit."""
    values = []
    while node is not None:
        values.append(encode(node.val, depth + 1))
        node = node.next
    return values


def _tree(root: Any, depth: int) -> list[Any]:
    """Level order with None for a missing child, without the trailing Nones (the benchmark's notation)."""
    values: list[Any] = []
    level = [root]
    for node in level:  # grows while it is walked
        if node is None:
            values.append(None)
        else:
            values.append(encode(node.val, depth + 1))
            level += [node.left, node.right]
    while values and values[-1] is None:
        values.pop()
    return values


def same(expected: Any, got: Any) -> bool:
    """Whether hostile data ``got`` equals trusted data ``expected``.

    As ``==`` in an assert: numbers of any types equal when their values do, a frozenset or a dict's keys equal a set, a
    bytearray equals bytes, a list does not equal a tuple, NaN equals nothing. Stricter than an assert in one point: a
    bool equals only a bool (``True == 1`` is refused), because a predicate in place of a count is a wrong answer.
    """
    if isinstance(expected, list):
        if not isinstance(got, list) or len(got) != len(expected):
            return False
        return all(map(same, expected, got))
    if _is_number(expected) and _is_number(got):
        return _same_number(expected, got)
    if isinstance(expected, dict):
        if not isinstance(got, dict):
            return False
        tag, other = expected["t"], got.get("t")
        if tag in _SETS and other in _SETS:
            return _same_members(expected["v"], got.get("v"), lambda member: member)
        if tag == "dict" and other == "dict":
            return _same_members(expected["v"], got.get("v"), lambda pair: pair[0])
        return bool(tag == other and tag not in ("iterator", "values")) and same(expected["v"], got.get("v"))
    return type(expected) is type(got) and bool(expected == got)


def _is_number(data: Any) -> bool:
    if isinstance(data, dict):
        return data.get("t") in ("int", "complex", "Fraction", "Decimal")
    return type(data) in (int, float)


def _same_number(expected: Any, got: Any) -> bool:
    """Python's own equality of two numbers, of which ``got`` is hostile: a fraction is not reduced, nor a decimal
    written out."""
    if not isinstance(expected, dict) and not isinstance(got, dict):
        return bool(expected == got)
    try:
        one, other = _number(expected), _number(got)
        if isinstance(other, tuple):
            top, bottom = other
            if isinstance(one, complex) and not one.imag:
                one = one.real
            if isinstance(one, float):
                one = one.as_integer_ratio() if one - one == 0 else (1, 0)
            if isinstance(one, int):
                one = one, 1
            return isinstance(one, tuple) and bool(bottom > 0 and top * one[1] == one[0] * bottom)
        return bool(one == other)
    except (ValueError, TypeError, ArithmeticError):
        return False


def _number(data: Any) -> Any:
    """The number of a number's data, a Fraction as a pair of ints. Raises ValueError, TypeError, ArithmeticError."""
    if not isinstance(data, dict):
        return data
    tag, value = data["t"], data.get("v")
    if tag in ("int", "Decimal"):
        if not isinstance(value, str):
            raise ValueError("not encoded data")
        return int(value, 16) if tag == "int" else decimal.Decimal(value)
    if not isinstance(value, list) or any(isinstance(one, dict) and one.get("t") != "int" for one in value):
        raise ValueError("not encoded data")
    parts = [_number(part) for part in value]
    wanted = int if tag == "Fraction" else float
    if len(parts) != 2 or any(type(part) is not wanted for part in parts):
        raise ValueError("not encoded data")
    return (parts[0], parts[1]) if tag == "Fraction" else complex(*parts)


def _same_members(expected: list[Any], got: Any, key: Callable[[Any], Any]) -> bool:
    """Members of sets, or pairs of dicts, sorted by ``key`` so that equal numbers of two types stand in one place."""
    if not isinstance(got, list) or len(got) != len(expected):
        return False
    if all(map(same, expected, got)):
        return True
    try:
        sides = [sorted(side, key=lambda item: _place(key(item))) for side in (expected, got)]
    except (ValueError, TypeError, LookupError, ArithmeticError):
        return False
    return all(map(same, *sides))


def _place(data: Any, depth: int = 0) -> str:
    """A text for sorting that equal data share. Raises ValueError, TypeError or ArithmeticError for what is no data."""
    if depth > 2 * MAX_DEPTH:
        raise ValueError("data nested too deeply")
    if isinstance(data, list):
        return "[" + ",".join(_place(item, depth + 1) for item in data) + "]"
    if type(data) is float and data.is_integer():
        return hex(int(data))
    if type(data) is int:
        return hex(data)
    if isinstance(data, dict):
        if data.get("t") == "complex" and not data["v"][1]:
            return _place(data["v"][0], depth + 1)
        if data.get("t") == "int":
            return hex(int(data["v"], 16))
        tag = "set" if data.get("t") in _SETS else data.get("t")
        return f"{tag}:{_place(data.get('v'), depth + 1)}"
    return json.dumps(data)


def to_source(data: Any, depth: int = 0) -> str:
    """A Python expression for hostile data. Raises ValueError for data that ``encode`` would not have
    made."""
    if depth > MAX_DEPTH + 1:
        raise ValueError("data nested too deeply")
    if isinstance(data, float):
        return f"float({str(data)!r})"
    if data is None or isinstance(data, bool | str):
        return repr(data)
    if isinstance(data, int):
        return hex(data) if data >= 0 else f"({hex(data)})"
    if isinstance(data, list):
        return "[" + ", ".join(to_source(item, depth + 1) for item in data) + "]"
    tag, value = (data.get("t"), data.get("v")) if isinstance(data, dict) else (None, None)
    if isinstance(value, str):
        if tag == "int":
            return f"({hex(int(value, 16))})"
        if tag == "bytes":
            return repr(bytes.fromhex(value))
        if tag == "Decimal":
            return f"__import__('decimal').Decimal({value!r})"
    if not isinstance(value, list) or not isinstance(tag, str) or tag not in _SOURCES:
        raise ValueError("not encoded data")
    return _SOURCES[tag].format(to_source(value, depth + 1))


_SOURCES = {
    **{tag: tag + "({})" for tag in ("tuple", "set", "frozenset", "dict")},
    "deque": "__import__('collections').deque({})",
    "range": "range(*{})",
    "iterator": "iter({})",
    "keys": "dict.fromkeys({}).keys()",
    "items": "dict({}).items()",
    "values": "dict(enumerate({})).values()",
    "complex": "complex(*{})",
    "Fraction": "__import__('fractions').Fraction(*{})",
    "ListNode": "list_node({})",
    "TreeNode": "tree_node({})",
}
