"""Running jobs in a fork server, and telling a failure of the program from a failure of the sandbox.

Layers (``layers/``; each is tried when a server starts, ``Sandbox.layers`` and ``evil-moe doctor`` tell the
outcome) and what they take from a job:

    limits           CPU seconds, memory, size of a file, open files, core dumps
    no_new_privs     privileges by executing a program
    leash            outliving the server; leaving the process group that is killed at the end
    seccomp          an allow-list of system calls: no sockets but a pair of its own, no process or thread, no execve, no signal to
                     others, no tracing, no mounts, no namespaces, no memory outside the limits
    private_root     every file but Python's library, without installed packages; no /proc, /sys, /tmp; a
                     scratch folder in memory with ``scratch_mib`` bytes and 10,000 files
    landlock         the same files, by allow-list, where no private root can be made; no TCP; no signals
    user             the grader's user: another uid and gid, no groups
    capabilities     the powers of root
    user_, pid_, net_, ipc_, uts_namespace
                     what lies outside: processes, network, shared memory

and without layers: an own environment and no inherited descriptor; result bytes, their number of lines and
the wall time bounded here; the server's memory wiped of jobs and results between jobs; every process of a job
killed and reaped; a server that dies or stalls replaced.

The minimum is limits, no_new_privs, leash, seccomp, and private_root or landlock. Without it a sandbox
refuses to run, unless ``SandboxLimits.allow_weak``. It is met by root, by root without capabilities and by an
ordinary user, on Linux 5.13 with Landlock, or with user namespaces.

Where a layer is missing:
- no private_root: a job can see names, sizes and times of files (stat) anywhere; its scratch folder is looked
  at every 0.1 s, so it may exceed ``scratch_mib`` by what a disk takes in that time.
- no user: (an ordinary user, or Python's library not readable for others) the job shares the grader's user;
  what keeps it from that user's files and processes is seccomp and private_root or landlock.
- allow_weak without seccomp: a job may kill or stop its server, which is a fault and never a verdict.

What is not covered: faults of the kernel; side channels through time, caches and load; what uname, sysinfo
and the library tell about the machine; the job's own process, which it can rewrite at will, the token in
there included (correctness rests on data that the parent compares, see ``oracle``); use of its whole CPU and
wall time by every response. A solution that starts a thread or a process fails, for every user alike. Code of
offered packages (``packages``) runs in the job as any code does, under all layers.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import IO, Any, TypeVar

from reward.sandbox import packages, protocol, sweep
from reward.sandbox.calls import CallNumbers
from reward.sandbox.isolation import weakness_of
from reward.sandbox.layers import LayerReport
from reward.sandbox.protocol import Job, JobResult, SandboxLimits

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# Packages are entered as empty modules: what their __init__ imports, the server would pay for at each fork.
_BOOT = """import sys, types
root = sys.argv[1]
sys.path.insert(0, root)
for name in ("reward", "reward.sandbox"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [root + "/" + name.replace(".", "/")]
from reward.sandbox.server import main
main(*sys.argv[1:4])"""
_T = TypeVar("_T")
_LINES = 16  # a job's lines beside two for each call; the first lines are the runner's own
_START_S = 60.0  # for a server to start, also on a busy machine
_GRACE_S = 15.0  # on top of wall_s, for the server to start, kill, reap and answer


class SandboxFault(Exception):
    """The sandbox itself failed, repeatedly. Says nothing about the program that was to run."""


class WeakSandbox(SandboxFault):
    """Less isolation than the minimum can be had here."""


class Sandbox:
    """One fork server; a context manager, used by one thread at a time.

    ``faults`` counts the failures of the sandbox that a retry repaired or that were raised.
    """

    def __init__(self, limits: SandboxLimits | None = None, retries: int = 2) -> None:
        self.limits = limits or SandboxLimits()
        self.retries = retries
        self.faults = 0
        self._keeper: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None
        self._scratch = ""
        self._hello: _Hello | None = None
        self._setup: str | None = None  # the setup code that the server has
        self._loaded: set[str] = set()  # and the packages
        self._calls = CallNumbers()  # and the calls
        self._closed = False

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @property
    def server_pid(self) -> int | None:
        """The process id of the server, None while none runs."""
        return self._hello.pid if self._hello else None

    def layers(self) -> tuple[LayerReport, ...]:
        """What the server's probes of its layers of isolation found. Raises as ``run``."""
        return self._attempt(lambda server: server.layers)

    def run_many(self, jobs: Iterable[Job]) -> list[JobResult]:
        """Run jobs one after the other; results in order. Raises SandboxFault."""
        return [self.run(job) for job in jobs]

    def run(self, job: Job, keep_going: Callable[[Any], bool] | None = None) -> JobResult:
        """Run one job.

        ``keep_going`` sees each line as it arrives; the job is ended when it returns False. It must not keep
        state, because a job that is retried starts again.

        Raises:
            SandboxFault: the sandbox failed on this job more than ``retries`` times.
            WeakSandbox: (a SandboxFault) the minimum of isolation cannot be had, and ``limits.allow_weak`` is
                not set.
            ValueError: this sandbox has been closed.
        """
        return self._attempt(lambda server: self._exchange(job, keep_going))

    def _attempt(self, action: "Callable[[_Hello], _T]") -> "_T":
        """Start a server if none runs and do ``action``; once more after a fault."""
        if self._closed:
            raise ValueError("this Sandbox is closed; make a new one")
        for attempt in range(self.retries + 1):
            try:
                return action(self._hello or self._start())
            except (OSError, EOFError, _Broken) as error:
                self.faults += 1
                stderr = self._stop(kill=True)
                if attempt == self.retries:
                    raise SandboxFault(
                        f"the sandbox failed {attempt + 1} times on one job, last with: "
                        + (str(error) or type(error).__name__)
                        + (f"; the server wrote: {stderr}" if stderr else "")
                    ) from error
            except BaseException:
                self._stop(kill=True)  # the exchange is half done (KeyboardInterrupt, an error in keep_going)
                raise
        raise AssertionError("unreachable")

    def close(self) -> None:
        """End the server and remove its scratch folder. May be called twice."""
        self._closed = True
        self._stop(kill=False)

    def _start(self) -> "_Hello":
        """Start a server. Whatever is raised, ``_stop`` cleans up."""
        self._scratch = tempfile.mkdtemp(prefix="reward-sandbox-")
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the server)
        arguments = [_ROOT, self._scratch, json.dumps(asdict(self.limits))]
        self._keeper = subprocess.Popen(
            [sys.executable, "-P", "-s", "-S", "-B", "-c", _BOOT, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "HOME": "/nonexistent"}
            | packages.ONE_THREAD,
            start_new_session=True,  # a Ctrl-C at the terminal is for the client only
        )
        assert self._keeper.stdout
        kind, body = protocol.read_frame(self._keeper.stdout.fileno(), time.monotonic() + _START_S)
        if kind != protocol.HELLO:
            raise _Broken(f"the server's first frame is of kind {kind!r}")
        hello = json.loads(body)
        layers = tuple(LayerReport(*row) for row in hello["layers"])
        self._hello = _Hello(hello["pid"], os.pidfd_open(hello["pid"]), layers)
        if not self.limits.allow_weak and (weakness := weakness_of(layers)) is not None:
            raise WeakSandbox(weakness)
        return self._hello

    def _stop(self, kill: bool) -> str:
        """End the server, if any, and remove what ``_start`` made; returns the end of what it wrote to
        stderr."""
        keeper, hello = self._keeper, self._hello
        self._keeper = self._hello = self._setup = None
        self._calls = CallNumbers()
        self._loaded = set()
        if keeper is not None:
            assert keeper.stdin and keeper.stdout
            if hello is not None:
                if kill:
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(hello.pidfd, signal.SIGKILL)
                os.close(hello.pidfd)
            elif kill:
                keeper.kill()
            with contextlib.suppress(BrokenPipeError):
                keeper.stdin.close()
            try:
                keeper.wait(timeout=_GRACE_S)
            except subprocess.TimeoutExpired:
                keeper.kill()
                keeper.wait()
            keeper.stdout.close()
        scratch, self._scratch = self._scratch, ""
        if scratch:
            sweep.remove_tree(scratch)
        stderr, self._stderr = self._stderr, None
        if stderr is None:
            return ""
        with stderr:
            stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - 2000))
            return stderr.read().decode(errors="replace").strip()

    def _exchange(self, job: Job, keep_going: Callable[[Any], bool] | None) -> JobResult:
        assert self._keeper and self._keeper.stdin and self._keeper.stdout
        to_server, from_server = self._keeper.stdin.fileno(), self._keeper.stdout.fileno()
        head = protocol.JobHead.of(job, self.limits)
        deadline_s = time.monotonic() + head.wall_s + _GRACE_S
        fields = asdict(job)
        setup = fields.pop("setup")
        for package in packages.to_load(self.limits.packages, self._loaded, setup, job.code or ""):
            protocol.write_frame(to_server, protocol.LOAD, json.dumps(package).encode(), deadline_s)
        if setup != self._setup:
            protocol.write_frame(to_server, protocol.SETUP, setup.encode(), deadline_s)
            self._setup = setup
        if job.code is not None and job.calls:
            number, is_new = self._calls.number(job.calls)
            if is_new:
                told = json.dumps([number, job.calls]).encode()
                protocol.write_frame(to_server, protocol.CALLS, told, deadline_s)
            fields["calls"] = number or job.calls
        body = head.to_bytes() + json.dumps(fields).encode()
        protocol.write_frame(to_server, protocol.JOB, body, deadline_s)
        watched: dict[str, Any] = {"stdout": "", "files": []}
        most_lines = _LINES + 2 * len(job.calls)
        rest, lines, stopped = bytearray(), list[Any](), False
        while True:
            kind, body = protocol.read_frame(from_server, deadline_s)
            if kind == protocol.FAULT:
                raise _Broken(f"the server reported: {json.loads(body)}")
            if kind == protocol.WATCHED:
                watched = json.loads(body)
                continue
            if kind == protocol.END:
                break
            rest += body
            if b"\n" not in body:
                continue
            *whole, rest = rest.split(b"\n")
            for line in map(_parse, whole[: most_lines - len(lines)]):
                lines.append(line)
                if stopped or len(lines) < 2:
                    continue
                if len(lines) == most_lines or (keep_going and not keep_going(line)):
                    stopped = True
                    protocol.write_frame(to_server, protocol.STOP, b"", deadline_s)
        if not lines or lines[0] != protocol.READY:
            raise _Broken("the child ended before it was ready, so nothing of the job has run")
        end = json.loads(body)
        return JobResult(
            end["status"],
            tuple(lines[1:]),
            end["cpu_ms"],
            end["wall_ms"],
            end["exit_code"],
            end["signal"],
            watched["stdout"],
            tuple((name, text) for name, text in watched["files"]),
        )


@dataclass(frozen=True)
class _Hello:
    """What a server tells about itself, and a descriptor of its process."""

    pid: int
    pidfd: int
    layers: tuple[LayerReport, ...]


class _Broken(Exception):
    """The protocol was broken off, or the server reported a fault."""


def _parse(line: bytearray) -> Any:
    """A line of the child, None if it is not JSON (a response wrote on the pipe)."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
