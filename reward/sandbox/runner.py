"""What the child does with a job, once it is isolated.

The response shares this process, so it can rewrite everything here through frames, gc or sys.modules, and
write on the result pipe itself. Correctness does not rest on this file: the child never holds an expected
answer, and its lines are data that the parent compares. A job's token does rest on it: it lives in frames
only, which stops a printed or guessed forgery but not a response that searches the frames of its process.
What is told with a token therefore decides about loopholes and labels, never about correctness.
"""

import builtins
import contextlib
import gc
import json
import mmap
import os
import random
import sys
import types
from collections.abc import Callable
from typing import Any

from reward.sandbox import codec, own_test, protocol, setup_code

Send = Callable[[dict[str, Any]], None]
# Bound now, before any response runs.
_compile, _eval, _encode, _all, _type, _int, _abs = compile, eval, codec.encode, all, type, int, abs
_type_name = type.__dict__["__name__"].__get__
_order_of_classes = type.__dict__["__mro__"].__get__
_plus: Callable[[Any, int], int] = int.__add__
_arguments = BaseException.__dict__["args"].__get__
_traceback, _drop_traceback = BaseException.__dict__["__traceback__"].__get__, BaseException.with_traceback
_PYTHONS_OWN = frozenset(
    one for one in vars(builtins).values() if isinstance(one, type) and issubclass(one, BaseException)
)
_BUILTIN_NAMES = frozenset(vars(builtins))
_TOLD = 200  # characters of an exception
# Room to tell that the memory is full, when what fills it cannot be dropped. Never touched, so it costs no memory.
_RESERVE = mmap.mmap(-1, 4 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

# `except BaseException` below is the point of this file: a response may raise anything, and SystemExit,
# MemoryError or a class of its own are all the same event, "it failed". What was raised is told for people
# (``_raised``) and decides nothing.


def run_job(job: dict[str, Any], setup: types.CodeType | None, fd: int, recursion: int) -> int:
    """Execute the setup, then the response, then the calls or the test's steps; a line on ``fd`` for each
    event; READY has been sent. ``recursion``: the limit on its depth while they run; what compiles keeps Python's.
    Returns the exit status, which means something only in a job that watches it."""
    write, dumps = os.write, json.dumps

    def send(event: dict[str, Any]) -> None:
        view = memoryview(dumps(event).encode() + b"\n")
        while view:
            view = view[write(fd, view) :]

    base = _module("setup")
    random.seed(0)  # a forked child is seeded from the system; verdicts should repeat
    gc.enable()
    try:
        if setup is None:
            raise SyntaxError("setup code")
        setup_code.prepare(base)
        exec(setup, base)
    except BaseException as error:  # noqa: BLE001  the dataset's fault, and reported as such
        send({"s": protocol.SETUP_FAILED, **_raised(error, "<setup>")})
        return 1
    if job["code"] is None:
        sys.setrecursionlimit(recursion)
        _make_calls(job, base, send)
        return 0
    try:
        code = _compile(job["code"], "<response>", "exec", dont_inherit=True)
    except BaseException as error:  # noqa: BLE001  SyntaxError, ValueError, RecursionError, MemoryError, ...
        send({"s": protocol.NOT_COMPILED, **_raised(error)})
        return 1
    send(protocol.COMPILED)
    if job["test"] is not None:
        test = own_test.find(job["code"], job["test"], job["root"], job["method"])
        send({"s": "test", **test.facts()})  # before anything of the response has run
        sys.setrecursionlimit(recursion)
        _test(job, test, code, base, send)
        return 0
    sys.setrecursionlimit(recursion)
    printed, status = sys.stdout, 1
    names = _solution("solution", base)
    try:
        exec(code, names)
        if job["root"] in names:
            base[job["root"]] = names[job["root"]]  # arguments are built by the setup's own helpers
        for name in (
            names.keys() - base.keys() - _BUILTIN_NAMES
        ):  # what the setup's drivers need and leave open
            base[name] = names[name]
        _make_calls(job, base, send)
    except SystemExit as leave:
        send({"s": protocol.RAISED, **_raised(leave)})
        status = _exit_status(leave)
    except BaseException as error:  # noqa: BLE001  who fails at the top has answered nothing
        send({"s": protocol.RAISED, **_raised(error)})
    if job["watch"]["attributes"]:
        _read_attributes(job, names.get(job["root"]), send)
    for stream in (sys.stdout, printed):
        with contextlib.suppress(BaseException):  # the response may have put anything there
            stream.flush()
    return status


def _module(name: str) -> dict[str, Any]:
    """A fresh namespace that dataclasses, pickling and get_type_hints can find again by its name."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    return module.__dict__


def _solution(name: str, base: dict[str, Any]) -> dict[str, Any]:
    """A namespace for code that sees what the setup defined."""
    names = _module(name)
    names.update({key: value for key, value in base.items() if not key.startswith("__")})
    return names


def _make_calls(job: dict[str, Any], base: dict[str, Any], send: Send) -> None:
    """A line for each call. Raises SystemExit in a job that watches exits."""
    watch = job["watch"]
    for index, call in enumerate(job["calls"]):
        try:
            value = _eval(call, base)  # text, or compiled by the server
        except SystemExit as leave:
            if watch["exits"]:
                raise
            send({"i": index, **_raised(leave)})
            continue
        except BaseException as error:  # noqa: BLE001  the failure is the response's, whatever its class
            send({"i": index, **_raised(error)})
            continue
        try:
            send({"i": index, "v": _encode(value)})
        except BaseException as error:  # noqa: BLE001
            if watch["decoys"] and _equals_all(value, _eval(watch["decoys"][index])):
                send({"token": job["token"], "equal": index})
            kept = {"t": _type_name(_type(value))[:_TOLD]} if _type(error) is ValueError else _raised(error)
            send({"i": index, **kept})


def _raised(error: BaseException, file: str = "<response>") -> dict[str, Any]:
    """What was raised, for people: class and text, and the last line of the code that it passed. No method of
    the response is called: only Python's own exceptions have a text here."""
    kind, line, text = _type(error), None, ""
    step = _traceback(error)
    while step is not None:
        if step.tb_frame.f_code.co_filename == file:
            line = step.tb_lineno
        step = step.tb_next
    _drop_traceback(error, None)  # and with it what the failed frames held
    if kind is MemoryError:
        _RESERVE.close()
    if kind in _PYTHONS_OWN:
        line = error.lineno if isinstance(error, SyntaxError) else line
        said = [one for one in _arguments(error) if _type(one) is str] or [
            one for one in _arguments(error) if _type(one) is int and _abs(one) < 2**31
        ]
        text = "".join(f": {one}" for one in said)
    return {"e": (_type_name(kind) + text)[:_TOLD], "n": line}


def _equals_all(value: Any, decoys: list[Any]) -> bool:
    try:
        return _all(True if value == decoy else False for decoy in decoys)  # noqa: SIM210  __bool__ is called here
    except BaseException:  # noqa: BLE001  __eq__ is the response's
        return False


def _exit_status(leave: SystemExit) -> int:
    """The status that the interpreter would end with: 0 for none, the low byte of an int or of a subclass's (-1 for
    what no C long holds), 1 for the rest."""
    try:
        code = leave.code
    except BaseException:  # noqa: BLE001  a subclass may define anything
        return 1
    if code is None:
        return 0
    if _int not in _order_of_classes(_type(code)):
        return 1
    number = _plus(code, 0)
    return number & 0xFF if -(2**63) <= number < 2**63 else 0xFF


def _read_attributes(job: dict[str, Any], root: Any, send: Send) -> None:
    """A line for each watched attribute that is true on a fresh instance of the root, or on the root."""
    try:
        instance = root()
    except BaseException:  # noqa: BLE001
        instance = None
    for name in job["watch"]["attributes"]:
        for owner in (instance, root):
            try:
                found = owner is not None and bool(getattr(owner, name, False))
            except BaseException:  # noqa: BLE001
                found = False
            if found:
                send({"token": job["token"], "attribute": name})
                break


def _test(
    job: dict[str, Any], test: own_test.OwnTest, code: types.CodeType, base: dict[str, Any], send: Send
) -> None:
    """Take the job's steps; a line for each that succeeds."""
    names: dict[str, Any] | None = None
    for step in job["steps"]:
        try:
            if step in ("defined", "own"):
                if names is None:
                    names = _solution("solution", base)
                    exec(code, names)
                if step == "own":
                    _eval(test.call, names)
                elif not test.is_defined(names):
                    continue
            else:
                module = test.on_stub() if step == "stub" else test.on_class(base.get(job["root"]))
                if module is None:
                    continue
                other = _solution(step, base)
                exec(_compile(module, "<test>", "exec", dont_inherit=True), other)
                _eval(test.call, other)
        except BaseException:  # noqa: BLE001  as above
            continue
        send({"token": job["token"], "step": step})
