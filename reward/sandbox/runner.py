"""What the child does with a job, once it is isolated.

The response shares this process, so it can rewrite everything here through frames, gc or sys.modules, and
write on the result pipe itself. Correctness does not rest on this file: the child never holds an expected
answer, and its lines are data that the parent compares. The token of a probe job does rest on it: it lives in
this frame only, which stops a printed or guessed forgery but not a response that searches the frames of its
process.
"""

import gc
import json
import os
import random
import sys
import types
from collections.abc import Callable
from typing import Any

from reward.sandbox import codec, protocol

# `except BaseException` below is the point of this file: a response may raise anything, and SystemExit,
# MemoryError or a class of its own are all the same event, "it failed". What was raised is never looked at.


def run_job(job: dict[str, Any], setup: types.CodeType | None, fd: int) -> None:
    """Execute the setup, then the response, then the calls or the probe; a line on ``fd`` for each event.
    READY has been sent."""
    # Everything needed after the response has run is bound here, before it.
    write, dumps, encode, compile_, eval_ = os.write, json.dumps, codec.encode, compile, eval

    def send(event: dict[str, Any]) -> None:
        view = memoryview(dumps(event).encode() + b"\n")
        while view:
            view = view[write(fd, view) :]

    calls: list[Any] = job["calls"]  # expressions, or their compiled code
    base = _module("setup")
    random.seed(0)  # a forked child is seeded from the system; verdicts should repeat
    gc.enable()
    try:
        if setup is None:
            raise SyntaxError("setup code")
        exec(setup, base)
    except BaseException:  # noqa: BLE001  the dataset's fault, and reported as such
        send(protocol.SETUP_FAILED)
        return
    names = base
    if job["code"] is not None:
        try:
            code = compile_(job["code"], "<response>", "exec", dont_inherit=True)
        except BaseException:  # noqa: BLE001  SyntaxError, ValueError, RecursionError, MemoryError, ...
            send(protocol.NOT_COMPILED)
            return
        send(protocol.COMPILED)
        names = _module("solution")
        names.update({key: value for key, value in base.items() if not key.startswith("__")})
        try:
            exec(code, names)
        except BaseException:  # noqa: BLE001  also SystemExit: who leaves early has answered nothing
            return
        if job["probe"] is not None:
            if names.get(job["probe"]) is not base.get(job["probe"]):
                _probe(names, job, send)
            return
        if job["root"] in names:
            base[job["root"]] = names[job["root"]]  # arguments are built by the setup's own helpers
    for index, call in enumerate(calls):
        try:
            value = eval_(call, base)
            send({"i": index, "v": encode(value)})
        except BaseException:  # noqa: BLE001  the failure is the response's, whatever its class
            send({"i": index})


def _module(name: str) -> dict[str, Any]:
    """A fresh namespace that dataclasses, pickling and get_type_hints can find again by its name."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    return module.__dict__


def _probe(names: dict[str, Any], job: dict[str, Any], send: Callable[[dict[str, Any]], None]) -> None:
    """Call the probe as written, then with stubs; one line for each step that succeeds."""
    token, probe = job["token"], names[job["probe"]]
    if not callable(probe):
        return
    send({"token": token, "step": "defined"})
    try:
        probe()
    except BaseException:  # noqa: BLE001  as above
        return
    send({"token": token, "step": "returned"})
    try:
        _stub(names.get(job["root"]))
        probe()
    except BaseException:  # noqa: BLE001  as above
        return
    send({"token": token, "step": "returned_on_stub"})


def _stub(cls: Any) -> None:
    """Replace, in place, every method of a class by one that returns None. Dunder methods and data stay, so
    that objects can still be built and a look at a class attribute finds what it found."""
    if not isinstance(cls, type):
        return
    for owner in cls.__mro__[:-1]:
        for name, member in list(vars(owner).items()):
            if name.startswith("__"):
                continue
            if isinstance(member, property):
                type.__setattr__(owner, name, property(_returns_none))
            elif isinstance(member, staticmethod | classmethod) or callable(member):
                type.__setattr__(owner, name, staticmethod(_returns_none))


def _returns_none(*_args: object, **_kwargs: object) -> None:
    return None
