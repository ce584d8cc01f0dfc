"""Why a response is not correct, in one line for people.

What the response's own process says (the text of an exception, a wrong value) is quoted here, bounded and
printable; it may be forged, and decides nothing.
"""

import json
import signal
from collections.abc import Callable, Sequence
from typing import Any

from reward.sandbox import Job, JobResult, SandboxLimits, packages, protocol

KINDS = (
    "wrong value",
    "exception",
    "time",
    "memory",
    "output",
    "import",
    "no answer",
    "not formatted",
    "does not compile",
)
"""What a reason starts with."""
NOT_FORMATTED = "not formatted: no Python program in the reply"
_ASSERT, _VALUE, _ALL = 160, 80, 500  # characters
_ITEMS, _DEPTH = 8, 3  # of a value that is shown


def reason(
    job: Job,
    result: JobResult,
    limits: SandboxLimits,
    asserts: Sequence[str],
    is_wrong: Callable[[int], bool | None],
) -> str:
    """Why the job's response is not correct: kind, colon, details.

    is_wrong: whether the assert of that index got a wrong value; None if no value came for it.
    """
    lines = [line for line in result.lines[1:] if isinstance(line, dict)]
    if result.stage() == protocol.NOT_COMPILED:
        return _bounded(f"does not compile: {raised(result.lines[0])}")
    if result.stage() is None:
        return _bounded(_ended(job, result, limits) + ", before the response ran")
    for index, source in enumerate(asserts):
        place = f"assert {index + 1} of {len(asserts)}, `{_cut(source, _ASSERT)}`"
        wrong = is_wrong(index)
        if wrong:
            got = next((line["v"] for line in lines if line.get("i") == index and "v" in line), None)
            return _bounded(f"wrong value: got {shown(got)} at {place}")
        if wrong is not None:
            continue
        told = next((line for line in lines if line.get("i") == index and "v" not in line), None)
        if told is None:
            told = next((line for line in lines if line.get("s") == protocol.RAISED), None)
            place = "the top of the program" if told else place
        if told is None:
            return _bounded(f"{_ended(job, result, limits)}, at {place}")
        if "t" in told:
            return _bounded(f"wrong value: got an object of type {_cut(told['t'], _VALUE)} at {place}")
        return _bounded(f"{_raised(told, limits)}, at {place}")
    return "no answer"


def raised(line: Any) -> str:
    """The exception that a line of the child tells, and its line in the code."""
    text = _cut(line.get("e") or "an exception", 200)
    return text + (f" (line {line['n']})" if type(line.get("n")) is int else "")


def shown(value: Any, depth: int = 0) -> str:
    """A value's data as text, cut short."""
    if isinstance(value, dict):
        return f"{_cut(value.get('t'), 20)}({shown(value.get('v'), depth)})"
    if isinstance(value, list):
        if depth == _DEPTH:
            return "[...]"
        items = [shown(item, depth + 1) for item in value[:_ITEMS]]
        return f"[{', '.join(items)}{f', ... {len(value)} in all' if len(value) > _ITEMS else ''}]"
    if isinstance(value, str):
        return repr(value[:_VALUE]) + ("..." if len(value) > _VALUE else "")
    return _cut(value, _VALUE)


def _raised(line: Any, limits: SandboxLimits) -> str:
    text = raised(line)
    if text.startswith("MemoryError"):
        return f"memory: {text}, the limit is memory_mib={limits.memory_mib}"
    if not text.startswith(("ModuleNotFoundError", "ImportError")):
        return f"exception: {text}"
    absent = packages.absent(limits.packages)
    there = [one for one in limits.packages if one not in absent]
    offered = f"the sandbox offers {', '.join(there) or 'no package'}"
    return f"import: {text}, {offered}" + (f", not installed here: {', '.join(absent)}" if absent else "")


def _ended(job: Job, result: JobResult, limits: SandboxLimits) -> str:
    """How the process ended that told nothing of this assert."""
    head = protocol.JobHead.of(job, limits)
    if result.status == "timeout":
        return f"time: more than wall_s={head.wall_s:g} by the clock"
    if result.status == "output":
        return f"output: more than output_kib={head.output_kib} of values, or scratch_mib={limits.scratch_mib} of files"
    if result.signal == signal.SIGKILL and result.cpu_ms > 900 * head.cpu_s:
        return f"time: more than cpu_s={head.cpu_s:g} of CPU"
    if result.signal is not None:
        return f"exception: the process was ended by {_signal_name(result.signal)}"
    return "no answer: the process ended"


def _signal_name(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"{name} (its stack overflowed, or C code failed)" if number == signal.SIGSEGV else name


def _cut(text: Any, length: int) -> str:
    if isinstance(text, int) and text.bit_length() > 1000:
        text = f"an int of {text.bit_length()} bits"
    text = text if isinstance(text, str) else json.dumps(text)
    return text if len(text) <= length else f"{text[:length]}..."


def _bounded(text: str) -> str:
    """Printable, in one line, of at most ``_ALL`` characters."""
    return "".join(one if one.isprintable() else " " for one in _cut(text, _ALL))
