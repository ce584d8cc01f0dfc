"""Families of problems, their split, and problems drawn from them as rows of the benchmark's schema."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from reward.nano.parts import NOUNS, SOURCES, VERBS, Part, Reduce, Slots, Source

Row = dict[str, Any]
Split = Literal["train", "heldout"]

SYSTEM = "Write a Python solution in a ```python block."
CLOSING = "The code is a method of Solution and should pass all tests."
SETUP_CODE = "from typing import List"
N_TESTS = 5
INDENT = "        "

#: A reduce in one line, over a sequence {seq}, a filter {keep} and a map {out}. `cnt1` exists only as a slip.
ONE_LINERS = {
    "sum": "return sum({out} for x in {seq} if {keep})",
    "cnt": "return len([x for x in {seq} if {keep}])",
    "cnt1": "return len([x for x in {seq} if {keep}]) + 1",
    "max": "return max([{out} for x in {seq} if {keep}], default=0)",
    "min": "return min([{out} for x in {seq} if {keep}], default=0)",
    "list": "return [{out} for x in {seq} if {keep}]",
    "rev": "return [{out} for x in {seq} if {keep}][::-1]",
    "sort": "return sorted([{out} for x in {seq} if {keep}])",
    "join": 'return "".join({out} for x in {seq} if {keep})',
}

#: The same as (before the loop, inside it, what is returned).
LOOPS = {
    "sum": ("res = 0", "res += {out}", "res"),
    "cnt": ("res = 0", "res += 1", "res"),
    "cnt1": ("res = 1", "res += 1", "res"),
    "max": ("res = []", "res.append({out})", "max(res, default=0)"),
    "min": ("res = []", "res.append({out})", "min(res, default=0)"),
    "list": ("res = []", "res.append({out})", "res"),
    "rev": ("res = []", "res.append({out})", "res[::-1]"),
    "sort": ("res = []", "res.append({out})", "sorted(res)"),
    "join": ('res = ""', "res += {out}", "res"),
}


def body(shape: str, seq: str, keep: str, out: str, *, loop: bool) -> str:
    """The lines of a method, the first without its indent (the starter code ends in it)."""
    if not loop:
        return ONE_LINERS[shape].format(seq=seq, keep=keep, out=out)
    before, inside, result = LOOPS[shape]
    inside = inside.format(out=out)
    lines = (before, f"for x in {seq}:", f"    if {keep}:", f"        {inside}", f"return {result}")
    return f"\n{INDENT}".join(lines)


@cache
def families() -> tuple[str, ...]:
    """Every family name ``source/reduce/filter/map``, in a fixed order."""
    return tuple(
        f"{source_name}/{reduce_name}/{filter_name}/{map_name}"
        for source_name, source in SOURCES.items()
        for reduce_name in source.reduces
        for filter_name in source.filters
        for map_name in source.maps
        if reduce_name != "cnt" or map_name == "id"  # a count does not see the map
    )


def is_held_out(family: str) -> bool:
    """Whether the family is kept from training: by a hash of its name alone, about one in eight."""
    return hashlib.sha256(f"nano/{family}".encode()).digest()[0] % 8 == 0


@dataclass(frozen=True)
class Spec:
    """One problem before it is written out as a row."""

    family: str
    slots: Slots
    method: str
    description: str
    arguments: tuple[Any, ...]

    @property
    def _names(self) -> tuple[str, str, str, str]:
        source, reduce, keep, out = self.family.split("/")
        return source, reduce, keep, out

    @property
    def source(self) -> Source:
        return SOURCES[self._names[0]]

    @property
    def reduce(self) -> Reduce:
        return self.source.reduces[self._names[1]]

    @property
    def filter(self) -> Part:
        return self.source.filters[self._names[2]]

    @property
    def map(self) -> Part:
        return self.source.maps[self._names[3]]

    @property
    def shape(self) -> str:
        """The key of the right code shape in `ONE_LINERS` and `LOOPS`."""
        return self._names[1]

    @property
    def signature(self) -> str:
        parameter = f"{self.source.argument}: {self.source.annotation}"
        return f"class Solution:\n    def {self.method}(self, {parameter}) -> {self.reduce.returns}:"

    @property
    def starter_code(self) -> str:
        return f"{self.signature}\n{INDENT}"

    @property
    def expected(self) -> tuple[Any, ...]:
        """The right result for each argument, from the parts' functions."""
        source, reduce, keep, out = self.source, self.reduce, self.filter.value, self.map.value
        return tuple(
            reduce.value([out(x, self.slots) for x in source.elements(arg) if keep(x, self.slots)])
            for arg in self.arguments
        )

    @property
    def canonical_solution(self) -> str:
        keep, out = self.slots.fill(self.filter.code), self.slots.fill(self.map.code)
        return self.starter_code + body(self.shape, self.source.sequence, keep, out, loop=False) + "\n"

    def row(self) -> Row:
        """The problem in the benchmark's schema, plus ``family``."""
        question = f"{self.description}\n\n{self.signature}\n\n{CLOSING}"
        asserts = [
            f"assert Solution().{self.method}({self.source.argument} = {arg!r}) == {value!r}"
            for arg, value in zip(self.arguments, self.expected, strict=True)
        ]
        content = "\n".join([question, *asserts])
        return {
            # A hash of the content, so an id means the same problem in every split, seed and version.
            # 48 bits fit into a JSON number.
            "id": int.from_bytes(hashlib.sha256(content.encode()).digest()[:6], "big"),
            "dataset": "nano",
            "evaluator": "code",
            "difficulty": "nano",
            "question": question,
            "prompt": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}],
            "func_name": f"Solution().{self.method}",
            "setup_code": SETUP_CODE,
            "gt_answer": asserts,
            "answer": list(asserts),
            "canonical_solution": self.canonical_solution,
            "prompt_metadata": {"starter_code": self.starter_code},
            "hint": None,
            "completion_gt_pass": True,
            "family": self.family,
        }


def draw(family: str, rng: random.Random) -> Spec:
    """One problem of ``family``, such that no constant answer passes its tests."""
    source_name, reduce_name, filter_name, map_name = family.split("/")
    source = SOURCES[source_name]
    while True:
        slots = Slots(k=rng.randint(2, 9), j=rng.randint(2, 9), c=rng.choice("abcdest"))
        map_phrase = slots.fill(rng.choice(source.maps[map_name].phrases))
        description = rng.choice(source.sentences).format(
            reduce=rng.choice(source.reduces[reduce_name].phrases),
            map=f", each {map_phrase}," if map_phrase else "",
            filter=slots.fill(rng.choice(source.filters[filter_name].phrases)),
        )
        spec = Spec(
            family=family,
            slots=slots,
            method=rng.choice(VERBS) + rng.choice(NOUNS),
            description=description,
            arguments=tuple(source.draw(slots, rng, index) for index in range(N_TESTS)),
        )
        # Some numbers make every answer the same ("each modulo 3 that are divisible by 6"): draw again.
        if any(value != spec.expected[0] for value in spec.expected):
            return spec


def specs(split: Split, count: int, seed: int) -> list[Spec]:
    """``count`` distinct problems, dealt from reshuffled decks of families: none comes twice before all came.

    Raises:
        ValueError: if ``split`` is neither "train" nor "heldout", or ``count`` is negative.
    """
    if split not in ("train", "heldout"):
        raise ValueError(f"split is {split!r}; it must be 'train' or 'heldout'")
    if count < 0:
        raise ValueError(f"count is {count}; it must not be negative")
    rng = random.Random(f"nano-{split}-{seed}")
    deck = [family for family in families() if is_held_out(family) == (split == "heldout")]
    drawn: list[Spec] = []
    seen: set[tuple[Any, ...]] = set()
    while len(drawn) < count:
        rng.shuffle(deck)
        for family in deck[: count - len(drawn)]:
            spec = draw(family, rng)
            while (key := (spec.description, spec.method, str(spec.arguments))) in seen:
                spec = draw(family, rng)
            seen.add(key)
            drawn.append(spec)
    return drawn


def generate(split: Split, count: int, seed: int) -> list[Row]:
    """``count`` rows with distinct ids; the same arguments give the same rows, in the order of `specs`."""
    return [spec.row() for spec in specs(split, count, seed)]
