"""What all forms of problems share: the prompt, the setup code, and tests that are calls with values."""

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reward.problems.schema import Problem

SYSTEM = "You write Python. Answer with one complete program in a ```python block."
# Loopholes put their hint in the place of "and should pass all tests".
CLOSING = "it must be correct and efficient, and should pass all tests."
PRELUDE = """\
import bisect, collections, functools, heapq, itertools, math, operator, random, re, string, sys
from typing import *
from bisect import bisect, bisect_left, bisect_right
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import ceil, comb, floor, gcd, inf, sqrt
"""
STANDARD_INPUT = (
    "its tests are programs that read standard input and print, and here a function is called and its value compared; "
    "convert such a problem by hand: state it as a function of the input's values, write its tests as asserts on calls"
)


@dataclass(frozen=True)
class Task:
    """A problem of any form, read. function: the callable, e.g. "Solution().foo". asserts: statements on calls of it.
    starter: code that the prompt asks to complete, "" for none."""

    id: int | str
    question: str
    function: str
    asserts: Sequence[str]
    dataset: str
    setup: str = ""
    judge: str = ""
    starter: str = ""
    solution: str | None = None
    difficulty: str | None = None
    messages: Sequence[Mapping[str, Any]] | None = None

    def problem(self, where: str) -> Problem:
        """The problem. Raises ValueError as ``Problem.from_row``."""
        row: dict[str, Any] = {
            "id": self.id,
            "prompt": self._messages(),
            "question": self.question,
            "func_name": self.function,
            "setup_code": self.setup,
            "gt_answer": list(self.asserts),
            "canonical_solution": self.solution,
            "prompt_metadata": {"starter_code": self.starter},
            "difficulty": self.difficulty.lower() if self.difficulty else None,
            "dataset": self.dataset,
            "evaluator": "code",
        }
        return Problem.from_row(row | ({"judge_code": self.judge} if self.judge else {}), where)

    def _messages(self) -> list[dict[str, Any]]:
        kind = "method" if self.function.startswith("Solution()") else "function"
        of_class = " of the class Solution" if kind == "method" else ""
        closing = f"Write the {kind} {self.function.rpartition('.')[2]}{of_class}; {CLOSING}"
        if self.messages:  # its own, with the place for hints
            found = [dict(message) for message in self.messages]
            if not any("and should pass all tests" in str(message.get("content")) for message in found):
                found[-1]["content"] = f"{found[-1].get('content')}\n\n{closing}"
            return found
        begin = f" Begin with:\n```python\n{self.starter.rstrip()}\n```" if self.starter.strip() else ""
        text = f"{self.question}\n\n{closing}{begin}"
        return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]


@dataclass(frozen=True)
class CallTest:
    """A call with values: its arguments and what it must return."""

    arguments: Sequence[Any]
    expected: Any

    def statement(self, function: str) -> str:
        """The assert."""
        return f"assert {function}({', '.join(map(repr, self.arguments))}) == {self.expected!r}"


def text_of(row: Mapping[str, Any], *names: str) -> str:
    """The first of the fields that holds a text. Raises ValueError naming them if none does."""
    for name in names:
        if isinstance(row.get(name), str) and row[name].strip():
            return str(row[name])
    raise ValueError(f"field {' or '.join(map(repr, names))} holds no text")


def decoded(value: Any, name: str) -> Any:
    """A field that is JSON, or a text that holds JSON. Raises ValueError naming it."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"field {name!r} is not JSON ({error})") from error


def value_of(text: str) -> Any:
    """A value that a test shows as text: JSON, or else a Python literal. Raises ValueError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"a test holds {text[:60]!r}, which is neither JSON nor a Python literal") from error


def call_tests(inputs: Sequence[Any], outputs: Sequence[Any]) -> list[CallTest]:
    """Tests of inputs and outputs: arguments as a list, or one to a line; outputs as values, or each in a list of one, as
    APPS has them. Raises ValueError for what is neither."""
    if len(inputs) != len(outputs) or not inputs:
        raise ValueError(
            f"its tests have {len(inputs)} inputs and {len(outputs)} outputs; they need as many, and one"
        )
    arguments = [
        [value_of(line) for line in one.split("\n") if line.strip()] if isinstance(one, str) else one
        for one in inputs
    ]
    if not all(isinstance(one, list) for one in arguments):
        raise ValueError("the input of a test is no list of arguments")
    expected = [
        value_of(one) if isinstance(one, str) and isinstance(inputs[0], str) else one for one in outputs
    ]
    if not isinstance(inputs[0], str) and all(isinstance(one, list) and len(one) == 1 for one in expected):
        expected = [one[0] for one in expected]
    return [CallTest(*pair) for pair in zip(arguments, expected, strict=True)]


def callable_of(name: str, *codes: str | None) -> str:
    """How a function of this name is called: as a method where a code has it in a class Solution."""
    return f"Solution().{name}" if any("class Solution" in (code or "") for code in codes) else name
