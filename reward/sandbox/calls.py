"""A problem's calls, sent to the server and compiled there once, not by every child.

Rollouts of one problem come together, and to compile a hundred calls costs a child more than all else it does for a
short solution. Calls that are met a second time get a number. Only a problem's own calls, which are trusted as its
setup code is; calls that hold a response's values stay in the job.
"""

import collections
import json
import types
from typing import Any

KEPT = 256


class CallNumbers:
    """The client's side: which calls the server has, and under what number."""

    def __init__(self) -> None:
        self._numbers: collections.OrderedDict[tuple[str, ...], int] = collections.OrderedDict()
        self._next = 1

    def number(self, calls: tuple[str, ...]) -> tuple[int, bool]:
        """(number, whether the server must be told): 0 for calls that are met for the first time."""
        if calls not in self._numbers:
            self._numbers[calls] = 0
            if len(self._numbers) > KEPT:
                self._numbers.popitem(last=False)
            return 0, False
        known = self._numbers[calls]
        if known and known > self._next - KEPT:  # the server keeps the last ones
            return known, False
        self._numbers[calls], self._next = self._next, self._next + 1
        return self._next - 1, True


class CompiledCalls:
    """The server's side: the last calls it was told, compiled."""

    def __init__(self) -> None:
        self._compiled: dict[int, list[Any]] = {}

    def add(self, message: str) -> None:
        """Take ``[number, calls]``, JSON."""
        number, calls = json.loads(message)
        self._compiled[number] = [_compiled(call) for call in calls]
        self._compiled.pop(number - KEPT, None)

    def put_into(self, job: dict[str, Any]) -> None:
        """Replace a job's number of calls by the calls."""
        if isinstance(job["calls"], int):
            job["calls"] = self._compiled[job["calls"]]


def _compiled(call: str) -> str | types.CodeType:
    try:
        return compile(call, "<call>", "eval", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return call  # the child that evaluates it fails, and nothing else does
