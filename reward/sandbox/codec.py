"""Python values as JSON data, with a tag wherever JSON would lose the type.

None, bool, int, float and str are themselves; a list is a JSON list; everything else is ``{"t": tag, "v":
...}``: tuple, set, frozenset, dict, ListNode, TreeNode. Only exact types are encoded, so no method that a
response wrote on a subclass is called; an object of any other type has no encoding and its call counts as
failed. Elements of sets and keys of dicts are put in the order of their encodings, so that equal sets encode
equally.
"""

import json
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 64
#: Types of loaded packages, and what makes the value of Python's own type that such a value equals.
PLAIN: dict[type, Callable[[Any], Any]] = {}
_SCALARS = frozenset({type(None), bool, int, float, str})
_DICTS = (dict, Counter, OrderedDict, defaultdict)
# Bound now: a response may later rebind the names in builtins or json.
_type, _len, _list, _sorted, _dumps, _items = type, len, list, sorted, json.dumps, dict.items
_set, _frozenset, _tuple, _error, _is_scalars = set, frozenset, tuple, ValueError, _SCALARS.issuperset
_type_name = type.__dict__["__name__"].__get__


def encode(value: Any, depth: int = 0) -> Any:
    """The JSON data of ``value``. Raises ValueError for a type without encoding or deeper than MAX_DEPTH."""
    kind = _type(value)
    if kind in _SCALARS:
        return value
    if depth > MAX_DEPTH:
        raise _error("value nested too deeply")
    if kind is _list:
        if _is_scalars({_type(item) for item in value}):
            return value
        return [encode(item, depth + 1) for item in value]
    if kind is _tuple:
        return {"t": "tuple", "v": [encode(item, depth + 1) for item in value]}
    if kind is _set or kind is _frozenset:
        items = [encode(item, depth + 1) for item in value]
        return {"t": "set" if kind is _set else "frozenset", "v": _sorted(items, key=_dumps)}
    if kind in _DICTS:
        pairs = [[encode(key, depth + 1), encode(item, depth + 1)] for key, item in _items(value)]
        return {"t": "dict", "v": _sorted(pairs, key=lambda pair: _dumps(pair[0]))}
    name = _type_name(kind)
    if name == "ListNode":
        return {"t": "ListNode", "v": _linked_list(value, depth)}
    if name == "TreeNode":
        return {"t": "TreeNode", "v": _tree(value, depth)}
    if kind in PLAIN:
        return encode(PLAIN[kind](value), depth + 1)
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

    As ``==`` in an assert: an int equals a float of the same value, a list does not equal a tuple, NaN equals
    nothing. Stricter than an assert in one point: a bool equals only a bool (``True == 1`` is refused),
    because a predicate in place of a count is a wrong answer. Members of sets and keys of dicts must agree in
    type as well.
    """
    if isinstance(expected, list):
        if not isinstance(got, list) or len(got) != len(expected):
            return False
        return all(map(same, expected, got))
    if isinstance(expected, dict):
        return isinstance(got, dict) and got.get("t") == expected["t"] and same(expected["v"], got.get("v"))
    if type(expected) in (int, float):
        return type(got) in (int, float) and bool(expected == got)
    return type(expected) is type(got) and bool(expected == got)


def to_source(data: Any, depth: int = 0) -> str:
    """A Python expression for hostile data. Raises ValueError for data that ``encode`` would not have
    made."""
    if depth > MAX_DEPTH + 1:
        raise ValueError("data nested too deeply")
    if isinstance(data, float):
        return f"float({str(data)!r})"
    if data is None or isinstance(data, bool | int | str):
        return repr(data)
    if isinstance(data, list):
        return "[" + ", ".join(to_source(item, depth + 1) for item in data) + "]"
    tag, items = (data.get("t"), data.get("v")) if isinstance(data, dict) else (None, None)
    if not isinstance(items, list):
        raise ValueError("not encoded data")
    inner = to_source(items, depth + 1)
    if tag in ("tuple", "set", "frozenset", "dict"):
        return f"{tag}({inner})"
    if tag in ("ListNode", "TreeNode"):
        return f"{'list_node' if tag == 'ListNode' else 'tree_node'}({inner})"
    raise ValueError("not encoded data")
