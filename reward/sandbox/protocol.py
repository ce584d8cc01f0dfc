"""What client, server and child say to each other, and nothing else.

Client and server exchange frames on two pipes: one kind byte, four length bytes (big endian), body.

    client -> server   P  setup code of the jobs to come, UTF-8
                       C  calls of jobs to come and their number, JSON (see ``calls``)
                       J  a job: its head (what the server itself has to know), then the job without its
                          setup, and with its calls or their number, JSON
                       M  a package to load and its folder, JSON
                       S  stop the running job (ignored when none runs)
    server -> client   H  once: its process id and what its layers of isolation found, JSON
                       L  bytes the child wrote  W  what was watched, JSON
                       E  the end of the job, JSON    F  a fault, JSON string

The child writes lines of JSON on its result pipe; the server passes them on unread, because after the
response has started they may be forged. The lines written before the response starts cannot be: ``READY``,
then one with "s" ``SETUP_FAILED`` or ``NOT_COMPILED``, or ``COMPILED``. The lines after it are data to be
compared, never verdicts: ``{"i": 3, "v": <codec value>}`` for call 3, ``{"i": 3}`` if it raised or returned
something that has no encoding, ``{"s": RAISED}`` if the response itself raised. Such a line tells what was
raised ("e", and "n", the line in the code), or the type that has no encoding ("t"): for people only. What a
job watches or tests besides its calls is told by lines that carry its token.
"""

import os
import select
import struct
import time
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

SETUP, CALLS, JOB, LOAD, STOP = b"P", b"C", b"J", b"M", b"S"
HELLO, LINES, WATCHED, END, FAULT = b"H", b"L", b"W", b"E", b"F"
EXITS, STDOUT, FILES = 1, 2, 4
READY = {"s": "ready"}
SETUP_FAILED, NOT_COMPILED, RAISED = "setup_failed", "not_compiled", "raised"
COMPILED = {"s": "compiled"}
STDOUT_KIB, FILE_KIB, FILES_KEPT = 64, 4, 64
_HEADER = struct.Struct(">cI")
_HEAD = struct.Struct(">BddI")

Status = Literal["exited", "timeout", "output", "stopped"]


@dataclass(frozen=True)
class SandboxLimits:
    """Limits of one job, and whether it may run with less isolation than the minimum (see ``client``).

    ``cpu_s`` is rounded up to whole seconds (the kernel's unit). ``output_kib`` bounds the values that come back. ``scratch_mib`` bounds all files of a job
    together, ``file_mib`` each. ``packages`` are offered to programs, where they are installed (``packages``). ``recursion`` is Python's limit on its depth, and the stack grows as far.
    """

    cpu_s: float = 4.0
    wall_s: float = 10.0
    memory_mib: int = 1024
    file_mib: int = 8
    output_kib: int = 8192
    scratch_mib: int = 32
    recursion: int = 100_000
    packages: tuple[str, ...] = ("numpy", "sortedcontainers")
    allow_weak: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "packages", tuple(self.packages))
        for package in self.packages:
            if not isinstance(package, str) or not all(part.isidentifier() for part in package.split(".")):
                raise ValueError(
                    f"SandboxLimits.packages holds {package!r}: must be the name of a module, e.g. numpy"
                )
        for name in ("cpu_s", "wall_s", "memory_mib", "file_mib", "output_kib", "scratch_mib", "recursion"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 2**31:
                raise ValueError(
                    f"SandboxLimits.{name} = {value!r}: must be a number above 0; give one, e.g. 4"
                )
        for name in ("memory_mib", "file_mib", "output_kib", "scratch_mib", "recursion"):
            if not isinstance(getattr(self, name), int):
                raise ValueError(f"SandboxLimits.{name} = {getattr(self, name)!r}: must be a whole number")


@dataclass(frozen=True)
class Watch:
    """What to observe of a job besides the values of its calls; nothing by default.

    exits: a SystemExit of the response ends the process with its status, as it would end a script, and the
    result says how the process ended; one that ran to its end counts as failed (1). stdout, files: bring back
    what was printed and what lies in the scratch folder. attributes: names to read off an instance of the
    job's root and off the root, after the calls. decoys: for each call an expression for a list of values; a
    returned value without encoding is compared with each of them by ``==``.
    """

    exits: bool = False
    stdout: bool = False
    files: bool = False
    attributes: tuple[str, ...] = ()
    decoys: tuple[str, ...] = ()

    def flags(self) -> int:
        """What concerns the server."""
        return EXITS * self.exits | STDOUT * self.stdout | FILES * self.files


@dataclass(frozen=True)
class Job:
    """One child process.

    setup: trusted code, executed first. code: the response's code, or None for a job that runs trusted code
    only. calls: expressions whose values come back as data. root: the response's name that the calls start
    from ("Solution"). watch: see there.

    test: a name under which the response may define a test function, or None. Such a job makes no calls; it
    takes the ``steps`` of ``own_test`` in order. method: the method of ``root`` that the tests are to
    test. token: told with what is observed, so that a line that was only printed or guessed does not count.
    """

    setup: str
    code: str | None
    calls: tuple[str, ...] = ()
    root: str = "Solution"
    watch: Watch = Watch()
    test: str | None = None
    steps: tuple[str, ...] = ()
    method: str = ""
    token: str = ""
    cpu_s: float | None = None
    output_kib: int | None = None


@dataclass(frozen=True)
class JobHead:
    """What the server, which does not parse jobs, has to know of one: what to watch, and the limits."""

    watch: int
    cpu_s: float
    wall_s: float
    output_kib: int

    SIZE: ClassVar[int] = _HEAD.size

    @classmethod
    def of(cls, job: Job, limits: SandboxLimits) -> "JobHead":
        """The head of a job in a sandbox with these limits."""
        cpu_s = max(limits.cpu_s, job.cpu_s or 0.0)
        wall_s = limits.wall_s * cpu_s / limits.cpu_s
        return cls(job.watch.flags(), cpu_s, wall_s, max(limits.output_kib, job.output_kib or 0))

    def to_bytes(self) -> bytes:
        """The head as it stands before the job."""
        return _HEAD.pack(self.watch, self.cpu_s, self.wall_s, self.output_kib)


@dataclass(frozen=True)
class JobResult:
    """status: how the job ended. lines: the parsed lines after READY (forgeable from COMPILED on). cpu_ms: of
    the child and its descendants. wall_ms: as seen by the server. exit_code: how the child ended, from the
    kernel; None unless watched, or when the job was stopped. signal: the one that ended a child that "exited",
    None for none. stdout: the first STDOUT_KIB that were printed,
    with U+FFFD for what is not UTF-8. files: (name, beginning of the content) of the regular files at the top
    of the scratch folder, FILES_KEPT of them at most."""

    status: Status
    lines: tuple[Any, ...]
    cpu_ms: float
    wall_ms: float
    exit_code: int | None = None
    signal: int | None = None
    stdout: str = ""
    files: tuple[tuple[str, str], ...] = ()

    def stage(self) -> str | None:
        """Where the job got before the response started: SETUP_FAILED, NOT_COMPILED, "compiled", None if it
        ended earlier."""
        first = self.lines[0] if self.lines else None
        return first.get("s") if isinstance(first, dict) else None


def write_frame(fd: int, kind: bytes, body: bytes | memoryview, deadline_s: float | None = None) -> None:
    """Write one frame whole. Raises OSError when the other side is gone, TimeoutError past the deadline."""
    for view in (memoryview(_HEADER.pack(kind, len(body))), memoryview(body)):
        while view:
            wait(fd, select.POLLOUT, deadline_s)
            # a pipe that polls writable takes PIPE_BUF bytes without blocking
            view = view[os.write(fd, view if deadline_s is None else view[: select.PIPE_BUF]) :]


def read_frame(fd: int, deadline_s: float | None = None) -> tuple[bytes, bytes]:
    """Read one frame: (kind, body). Raises EOFError when the other side closed, TimeoutError past the
    deadline."""
    kind, size = _HEADER.unpack(_read_exactly(fd, _HEADER.size, deadline_s))
    return kind, _read_exactly(fd, size, deadline_s)


class Buffer:
    """Bytes on their way through the server, in one place, so that they can be wiped: what Python copies into
    objects stays readable in the heap after they are gone, and the next job inherits the heap."""

    def __init__(self, capacity: int = 0) -> None:
        self._bytes = bytearray(capacity)
        self._size = 0  # of what was read last
        self._used = 0  # since the last wipe

    def read_frame(self, fd: int) -> bytes:
        """Read one frame's body into the buffer; returns its kind. Raises EOFError."""
        kind, self._size = _HEADER.unpack(_read_exactly(fd, _HEADER.size, None))
        if self._size > len(self._bytes):
            self._bytes = bytearray(self._size)
        self._used = self._size
        view = memoryview(self._bytes)[: self._size]
        while view:
            count = os.readv(fd, [view])
            if not count:
                raise EOFError("the other side closed its pipe")
            view = view[count:]
        return bytes(kind)

    def read_some(self, fd: int) -> int:
        """Read what is there, at most the buffer's capacity; returns the number of bytes."""
        self._size = os.readv(fd, [self._bytes])
        self._used = max(self._used, self._size)
        return self._size

    def write_frame(self, fd: int, kind: bytes) -> None:
        """Write what ``read_some`` read as one frame. Raises OSError when the other side is gone."""
        write_frame(fd, kind, memoryview(self._bytes)[: self._size])

    def text(self, start: int = 0) -> str:
        """The body of the frame from byte ``start``. Copies it: call it on setup code or in a child."""
        return self._bytes[start : self._size].decode()

    def head(self) -> JobHead:
        """The head of the job that was read."""
        return JobHead(*_HEAD.unpack_from(self._bytes))

    def wipe(self) -> None:
        """Overwrite what was read."""
        self._bytes[: self._used] = bytes(self._used)
        self._used = 0


def wait(fd: int, event: int, deadline_s: float | None) -> None:
    """Wait for ``event`` on ``fd`` until ``deadline_s`` (of time.monotonic). Raises TimeoutError.

    poll, not select: a trainer may hold more than 1024 descriptors.
    """
    if deadline_s is None:
        return
    poll = select.poll()
    poll.register(fd, event)
    if not poll.poll(max(0.0, 1e3 * (deadline_s - time.monotonic()))):
        raise TimeoutError("the other side of the pipe did nothing until the deadline")


def _read_exactly(fd: int, size: int, deadline_s: float | None) -> bytes:
    parts = []
    while size:
        wait(fd, select.POLLIN, deadline_s)
        part = os.read(fd, min(size, 1 << 20))
        if not part:
            raise EOFError("the other side closed its pipe")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
