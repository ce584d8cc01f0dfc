"""What counts as the same answer for one problem: strictly equal, or with its order free, or within a tolerance.

Order. ``outer``: the members of the answer, a list or a tuple, may come in any order ("you may return the answer in any
order"). ``inner``: the answer's own order counts, the lists in it are free ("the integers in the lists may be returned
in any order"). ``all``: both ("the order of the output and the order within each triplet does not matter"). Members are
counted: [1, 1, 2] is not [1, 2, 2]. Equality of members is that of ``codec.same``; strings, sets, trees and linked
lists are one member each.

Tolerance. Two numbers are the same if they differ by at most ``tolerance`` ("answers within 10^-5 of the actual answer":
an absolute difference, as it is written), or by ``relative_tolerance`` of the expected one. Bools are no numbers.

What is compared is hostile: nothing of it is run or hashed, and nothing is walked that is larger than what is expected or
deeper than the codec goes. Without a tolerance an answer of n values costs n log n. With one, members are matched in the
order of their texts and then of their numbers, which finds a match of plain numbers whenever there is one; up to
``MATCHED`` members without a free order of their own are matched exactly.
"""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reward.sandbox import codec

Order = Literal["outer", "inner", "all"]
ORDERS: tuple[Order, ...] = ("outer", "inner", "all")
MATCHED = 64
_NUMBERS = (int, float)


class _Never(Exception):
    """Data that equals nothing: NaN, or deeper than the codec goes."""


@dataclass(frozen=True)
class Comparison:
    """How values are compared; strictly by default. any_order: which order is free, None for none of it."""

    any_order: Order | None = None
    tolerance: float = 0.0
    relative_tolerance: float = 0.0

    @property
    def strict(self) -> bool:
        """Whether this is ``codec.same``."""
        return self.any_order is None and not self._tolerant

    @property
    def _tolerant(self) -> bool:
        return self.tolerance > 0 or self.relative_tolerance > 0

    def same(self, expected: Any, got: Any) -> bool:
        """Whether hostile data ``got`` is the answer ``expected``, trusted data."""
        if self.strict:
            return codec.same(expected, got)
        if not _same_size(expected, got):
            return False
        if self._tolerant:
            return self._close(expected, got, 0)
        try:
            return self._key(expected, 0) == self._key(got, 0)
        except _Never:
            return False

    def describe(self) -> str:
        """In words, e.g. "in any order (outer), within 1e-05"."""
        words = [f"in any order ({self.any_order})"] if self.any_order else []
        words += [f"within {self.tolerance:g}"] if self.tolerance else []
        words += [f"within {self.relative_tolerance:g} of the value"] if self.relative_tolerance else []
        return ", ".join(words) or "strict"

    def _free(self, level: int | None) -> bool:
        """Whether a sequence at this level is free in its order: 0 for the answer itself, None inside of other types."""
        return level is not None and self.any_order in ("all", "inner" if level else "outer")

    def _key(self, data: Any, level: int | None, depth: int = 0) -> str:
        """A text that equal data share, and no others."""
        if depth > 2 * codec.MAX_DEPTH:
            raise _Never
        if isinstance(data, list):
            keys = [self._key(item, _below(level), depth + 1) for item in data]
            return f"[{','.join(sorted(keys) if self._free(level) else keys)}]"
        if isinstance(data, dict):
            inner = level if data.get("t") == "tuple" else None
            return f"{json.dumps(data.get('t'))}:{self._key(data.get('v'), inner, depth + 1)}"
        if type(data) in _NUMBERS:
            if data != data:
                raise _Never
            whole = not isinstance(data, float) or data.is_integer()
            return hex(int(data)) if whole else data.hex()
        return json.dumps(data)

    def _close(self, expected: Any, got: Any, level: int | None) -> bool:
        if isinstance(expected, list):
            if not isinstance(got, list) or len(got) != len(expected):
                return False
            if self._free(level):
                return self._match(expected, got, level)
            below = _below(level)
            return all(self._close(one, other, below) for one, other in zip(expected, got, strict=True))
        if isinstance(expected, dict):
            tag = expected["t"]
            if not isinstance(got, dict) or got.get("t") != tag:
                return False
            one, other = expected["v"], got.get("v")
            if tag in ("set", "frozenset"):  # sorted by texts, which say nothing of near numbers
                return isinstance(other, list) and len(one) == len(other) and self._match(one, other, None)
            return self._close(one, other, level if tag == "tuple" else None)
        if type(expected) in _NUMBERS and type(got) in _NUMBERS:
            return self._near(expected, got)
        return codec.same(expected, got)

    def _near(self, expected: float, got: float) -> bool:
        if expected == got or (isinstance(expected, int) and isinstance(got, int)):
            return expected == got
        try:
            expected, got = float(expected), float(got)
        except OverflowError:
            return False
        allowed = max(self.tolerance, self.relative_tolerance * abs(expected))
        # The written difference counts: 2.00001 is within 1e-5 of 2, though not as binary fractions.
        return abs(expected - got) <= allowed + 2 * math.ulp(expected) < math.inf

    def _match(self, expected: list[Any], got: list[Any], level: int | None) -> bool:
        """Whether every expected member has a member of its own in ``got``; as many of both."""
        below = _below(level)
        try:
            sides = [sorted(side, key=lambda item: self._place(item, below)) for side in (expected, got)]
        except _Never:
            return False
        if all(self._close(one, other, below) for one, other in zip(*sides, strict=True)):
            return True
        scalars = not any(isinstance(item, list | dict) for item in expected)
        if scalars or len(expected) > MATCHED or self._free(below):
            return False
        return _all_matched([[self._close(one, other, below) for other in got] for one in expected])

    def _place(self, data: Any, level: int | None, depth: int = 0) -> tuple[list[str], list[float]]:
        """Where a member is sorted: by its shape and its texts, then by its numbers."""
        if depth > 2 * codec.MAX_DEPTH:
            raise _Never
        if isinstance(data, list):
            places = [self._place(item, _below(level), depth + 1) for item in data]
            if self._free(level):
                places.sort()
            texts = [f"list {len(data)}", *(text for place in places for text in place[0])]
            return texts, [number for place in places for number in place[1]]
        if isinstance(data, dict):
            inner = level if data.get("t") == "tuple" else None
            texts, numbers = self._place(data.get("v"), inner, depth + 1)
            return [f"tag {json.dumps(data.get('t'))}", *texts], numbers
        if type(data) not in _NUMBERS:
            return [f"value {json.dumps(data)}"], []
        if data != data:
            raise _Never
        return ["number"], [data]


STRICT = Comparison()


def _same_size(expected: Any, got: Any) -> bool:
    """Whether both hold as many values, at any depth; costs no more than the expected ones, whatever was returned."""
    size = _size(expected, sys.maxsize)
    return _size(got, size) == size


def _size(data: Any, most: int) -> int:
    """The number of values in data; past ``most`` the count stops."""
    count, todo = 0, [data]
    while todo and count <= most:
        one = todo.pop()
        count += 1
        if isinstance(one, list):
            if len(one) > most:
                return len(one)
            todo += one
        elif isinstance(one, dict):
            todo.append(one.get("v"))
    return count


def _below(level: int | None) -> int | None:
    return None if level is None else level + 1


def _all_matched(fits: Sequence[Sequence[bool]]) -> bool:
    """Whether rows and columns can be paired off (Kuhn's augmenting paths); rows and columns are equally many."""
    row_of: dict[int, int] = {}

    def place(row: int, tried: set[int]) -> bool:
        for column, fit in enumerate(fits[row]):
            if fit and column not in tried:
                tried.add(column)
                if column not in row_of or place(row_of[column], tried):
                    row_of[column] = row
                    return True
        return False

    return all(place(row, set()) for row in range(len(fits)))
