"""The parts that problems are composed of: sources, reduces, filters and maps, with their phrases, code and slips."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Slots:
    """What a problem fills into the templates of its parts."""

    k: int  # the number in a filter
    j: int  # the number in a map
    c: str  # the character in a filter

    def fill(self, template: str) -> str:
        return template.format(k=self.k, j=self.j, c=self.c)


@dataclass(frozen=True)
class Part:
    """A filter or a map over one element ``x``."""

    phrases: tuple[str, ...]
    code: str
    value: Callable[[Any, Slots], Any]
    mastery: float
    slips: tuple[str, ...]


@dataclass(frozen=True)
class Reduce:
    """What becomes of the selected elements. ``slips`` name other shapes of `ONE_LINERS` and `LOOPS`."""

    phrases: tuple[str, ...]
    returns: str
    value: Callable[[list[Any]], Any]
    mastery: float
    slips: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """Where the elements come from, and which parts go with them."""

    sentences: tuple[str, ...]
    argument: str
    annotation: str
    sequence: str
    elements: Callable[[Any], Iterable[Any]]
    draw: Callable[[Slots, random.Random, int], Any]  # the argument of the i-th test
    reduces: dict[str, Reduce]
    filters: dict[str, Part]
    maps: dict[str, Part]


def _draw_list(slots: Slots, rng: random.Random, index: int) -> list[int]:
    # k and 2k are in all but one list: without them `>` and `>=`, `%` and `==` would often agree;
    # with them everywhere, "the smallest element that is at least k" would always be k.
    values = [rng.randint(1, 30) for _ in range(rng.randint(6, 10))]
    if index > 0:
        values += [slots.k, 2 * slots.k]
    rng.shuffle(values)
    return values


def _draw_bound(slots: Slots, rng: random.Random, index: int) -> int:
    # One bound below k: above it, "the integers from 1 to n less than k" no longer depend on n.
    return rng.randint(0, slots.k - 1) if index == 0 else rng.randint(10, 40)


def _draw_text(slots: Slots, rng: random.Random, _: int) -> str:
    return "".join(rng.choice("abcdeistouABEX0123") for _ in range(14)) + slots.c


INT_FILTERS = {
    "even": Part(
        ("even", "divisible by two"),
        "x % 2 == 0", lambda x, s: x % 2 == 0, 0.95, ("x % 2 == 1", "x % 2"),
    ),
    "odd": Part(
        ("odd", "not even"),
        "x % 2 == 1", lambda x, s: x % 2 == 1, 0.9, ("x % 2 == 0", "x % 2 == 2"),
    ),
    "gt": Part(
        ("greater than {k}", "larger than {k}", "above {k}"),
        "x > {k}", lambda x, s: x > s.k, 0.65, ("x >= {k}", "x < {k}"),
    ),
    "lt": Part(
        ("less than {k}", "smaller than {k}", "below {k}"),
        "x < {k}", lambda x, s: x < s.k, 0.65, ("x <= {k}", "x > {k}"),
    ),
    "ge": Part(
        ("at least {k}", "no less than {k}"),
        "x >= {k}", lambda x, s: x >= s.k, 0.3, ("x > {k}", "x <= {k}"),
    ),
    "le": Part(
        ("at most {k}", "no more than {k}"),
        "x <= {k}", lambda x, s: x <= s.k, 0.3, ("x < {k}", "x >= {k}"),
    ),
    "div": Part(
        ("divisible by {k}", "multiples of {k}"),
        "x % {k} == 0", lambda x, s: x % s.k == 0, 0.75, ("x % {k}", "x // {k} == 0"),
    ),
    "ndiv": Part(
        ("not divisible by {k}",),
        "x % {k} != 0", lambda x, s: x % s.k != 0, 0.35, ("x % {k} == 0", "x // {k} != 0"),
    ),
    "ends": Part(
        ("ending in the digit {k}", "whose last digit is {k}"),
        "x % 10 == {k}", lambda x, s: x % 10 == s.k, 0.3, ("x // 10 == {k}", "x % {k} == 0", "x == {k}"),
    ),
}  # fmt: skip

INT_MAPS = {
    "id": Part(("",), "x", lambda x, s: x, 0.97, ("x + 1",)),
    "sq": Part(("squared", "multiplied by itself"), "x * x", lambda x, s: x * x, 0.8, ("x * 2", "x")),
    "mul": Part(("times {j}", "multiplied by {j}"), "x * {j}", lambda x, s: x * s.j, 0.75, ("x + {j}", "x")),
    "add": Part(
        ("plus {j}", "increased by {j}"),
        "x + {j}", lambda x, s: x + s.j, 0.75, ("x - {j}", "x * {j}"),
    ),
    "sub": Part(
        ("minus {j}", "decreased by {j}"),
        "x - {j}", lambda x, s: x - s.j, 0.5, ("x + {j}", "{j} - x"),
    ),
    "cube": Part(("cubed",), "x * x * x", lambda x, s: x**3, 0.3, ("x * x", "x * 3")),
    "mod": Part(("modulo {j}",), "x % {j}", lambda x, s: x % s.j, 0.3, ("x // {j}", "x - {j}")),
    "neg": Part(("negated",), "-x", lambda x, s: -x, 0.5, ("x", "1 - x")),
}  # fmt: skip

CHAR_FILTERS = {
    "vow": Part(
        ("vowels",),
        'x in "aeiou"', lambda x, s: x in "aeiou", 0.8, ('x not in "aeiou"', 'x == "a"'),
    ),
    "con": Part(
        ("not vowels",),
        'x not in "aeiou"', lambda x, s: x not in "aeiou", 0.4, ('x in "aeiou"', "x.isupper()"),
    ),
    "dig": Part(("digits",), "x.isdigit()", lambda x, s: x.isdigit(), 0.8, ("x.isalpha()", "x.isupper()")),
    "let": Part(("letters",), "x.isalpha()", lambda x, s: x.isalpha(), 0.6, ("x.isdigit()", "x.islower()")),
    "upp": Part(("uppercase",), "x.isupper()", lambda x, s: x.isupper(), 0.7, ("x.islower()", "x.upper()")),
    "eq": Part(("equal to '{c}'",), 'x == "{c}"', lambda x, s: x == s.c, 0.7, ('x != "{c}"', 'x > "{c}"')),
    "ne": Part(
        ("different from '{c}'",),
        'x != "{c}"', lambda x, s: x != s.c, 0.35, ('x == "{c}"', 'x < "{c}"'),
    ),
}  # fmt: skip

CHAR_MAPS = {
    "id": Part(("",), "x", lambda x, s: x, 0.97, ("x * 2",)),
    "up": Part(("in upper case",), "x.upper()", lambda x, s: x.upper(), 0.75, ("x.lower()", "x")),
    "low": Part(("in lower case",), "x.lower()", lambda x, s: x.lower(), 0.6, ("x.upper()", "x")),
    "dbl": Part(("doubled",), "x * 2", lambda x, s: x + x, 0.4, ("x", "x + x + x")),
}


def _largest(values: list[Any]) -> Any:
    return max(values, default=0)


def _smallest(values: list[Any]) -> Any:
    return min(values, default=0)


def _reversed(values: list[Any]) -> list[Any]:
    return values[::-1]


COUNT_PHRASES = ("how many there are of", "the number of")
REVERSED_PHRASES = ("a reversed list of", "in reverse order all of")

INT_REDUCES = {
    "sum": Reduce(("the sum of", "the total of"), "int", sum, 0.95, ("list", "cnt")),
    "cnt": Reduce(COUNT_PHRASES, "int", len, 0.7, ("sum", "cnt1")),
    "max": Reduce(("the largest of", "the maximum of"), "int", _largest, 0.65, ("min", "sum")),
    "min": Reduce(("the smallest of", "the minimum of"), "int", _smallest, 0.5, ("max", "sum")),
    "list": Reduce(("a list of", "all of"), "List[int]", list, 0.8, ("rev", "sum")),
    "rev": Reduce(REVERSED_PHRASES, "List[int]", _reversed, 0.35, ("list", "sort")),
    "sort": Reduce(("a sorted list of", "in sorted order all of"), "List[int]", sorted, 0.4, ("list", "rev")),
}

CHAR_REDUCES = {
    "join": Reduce(("a string of", "the concatenation of"), "str", "".join, 0.85, ("list", "cnt")),
    "cnt": Reduce(COUNT_PHRASES, "int", len, 0.7, ("join", "cnt1")),
    "list": Reduce(("a list of", "all of"), "List[str]", list, 0.7, ("join", "rev")),
    "rev": Reduce(REVERSED_PHRASES, "List[str]", _reversed, 0.35, ("list", "join")),
}

SOURCES = {
    "nums": Source(
        sentences=(
            "Given a list of integers nums, return {reduce} the elements{map} that are {filter}.",
            "You are given an integer array nums. Return {reduce} the values{map} that are {filter}.",
        ),
        argument="nums",
        annotation="List[int]",
        sequence="nums",
        elements=lambda nums: nums,
        draw=_draw_list,
        reduces=INT_REDUCES,
        filters=INT_FILTERS,
        maps=INT_MAPS,
    ),
    "n": Source(
        sentences=("Given an integer n, return {reduce} the integers from 1 to n{map} that are {filter}.",),
        argument="n",
        annotation="int",
        sequence="range(1, n + 1)",
        elements=lambda n: range(1, n + 1),
        draw=_draw_bound,
        reduces=INT_REDUCES,
        filters=INT_FILTERS,
        maps=INT_MAPS,
    ),
    "s": Source(
        sentences=("Given a string s, return {reduce} the characters{map} that are {filter}.",),
        argument="s",
        annotation="str",
        sequence="s",
        elements=lambda s: s,
        draw=_draw_text,
        reduces=CHAR_REDUCES,
        filters=CHAR_FILTERS,
        maps=CHAR_MAPS,
    ),
}

VERBS = ("get", "find", "compute", "make", "build", "calc", "pick", "solve", "take", "collect")
NOUNS = (
    "Result", "Answer", "Values", "Items", "Total", "Output",
    "Things", "Data", "Score", "Numbers", "Target", "Stuff",
)  # fmt: skip
