"""Running jobs in a fork server, and telling a failure of the program from a failure of the sandbox.

What is covered: CPU time per process, wall time, address space per process, size of each file, open files,
result size, stdin/stdout/stderr, inherited descriptors, the environment; an own session and an empty scratch
folder per job; no new privileges; every descendant killed and reaped after the job, also one that made itself
a daemon; the server's death or stop, noticed and repaired.

What is not covered (a later layer adds user ids, namespaces, seccomp and Landlock): a job runs as the user of
this process. It can read and write any file this user can, use the network, and signal, trace or read other
processes of this user beyond its direct parent (as root: any process). Memory and CPU limits count per
process, so as root, who may fork, a job can use a multiple of them within the wall time. Processes of a job
whose server was killed while it ran die with the server only if they did not detach themselves.
"""
# ruff: noqa: PTH100, PTH120

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from reward.sandbox import protocol, sweep
from reward.sandbox.protocol import Job, JobResult, SandboxLimits

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from reward.sandbox.server import main; main(*sys.argv[1:4])"
)
_GRACE_S = 15.0  # on top of wall_s, for the server to start, kill, reap and answer


class SandboxFault(Exception):
    """The sandbox itself failed, repeatedly. Says nothing about the program that was to run."""


class Sandbox:
    """One fork server; a context manager, used by one thread at a time.

    ``faults`` counts the failures of the sandbox that a retry repaired or that were raised.
    """

    def __init__(self, limits: SandboxLimits | None = None, retries: int = 2) -> None:
        self.limits = limits or SandboxLimits()
        self.retries = retries
        self.faults = 0
        self._server: subprocess.Popen[bytes] | None = None
        self._scratch = ""
        self._closed = False

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @property
    def server_pid(self) -> int | None:
        """The process id of the server, None while none runs."""
        return self._server.pid if self._server else None

    def run_many(self, jobs: Iterable[Job]) -> list[JobResult]:
        """Run jobs one after the other; results in order. Raises SandboxFault."""
        return [self.run(job) for job in jobs]

    def run(self, job: Job, keep_going: Callable[[Any], bool] | None = None) -> JobResult:
        """Run one job.

        ``keep_going`` sees each line as it arrives; the job is ended when it returns False. It must not keep
        state, because a job that is retried starts again.

        Raises:
            SandboxFault: the sandbox failed on this job more than ``retries`` times.
            ValueError: this sandbox has been closed.
        """
        if self._closed:
            raise ValueError("this Sandbox is closed; make a new one")
        for attempt in range(self.retries + 1):
            try:
                if self._server is None:
                    self._start()
                return self._exchange(job, keep_going)
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

    def _start(self) -> None:
        self._scratch = tempfile.mkdtemp(prefix="reward-sandbox-")
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the server)
        arguments = [_ROOT, self._scratch, json.dumps(asdict(self.limits))]
        self._server = subprocess.Popen(
            [sys.executable, "-P", "-s", "-S", "-B", "-c", _BOOT, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "HOME": "/nonexistent"},
            start_new_session=True,  # a Ctrl-C at the terminal is for the client only
        )

    def _stop(self, kill: bool) -> str:
        """End the server, if any; returns the end of what it wrote to stderr."""
        server, self._server = self._server, None
        if server is None:
            return ""
        assert server.stdin and server.stdout
        if kill:
            server.kill()
        with contextlib.suppress(BrokenPipeError):
            server.stdin.close()
        try:
            server.wait(timeout=_GRACE_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        server.stdout.close()
        sweep.remove_tree(self._scratch)
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - 2000))
        text = self._stderr.read().decode(errors="replace").strip()
        self._stderr.close()
        return text

    def _exchange(self, job: Job, keep_going: Callable[[Any], bool] | None) -> JobResult:
        assert self._server and self._server.stdin and self._server.stdout
        to_server, from_server = self._server.stdin.fileno(), self._server.stdout.fileno()
        deadline_s = time.monotonic() + self.limits.wall_s + _GRACE_S
        protocol.write_frame(to_server, protocol.JOB, json.dumps(asdict(job)).encode(), deadline_s)
        rest, lines, stopped = bytearray(), list[Any](), False
        while True:
            kind, body = protocol.read_frame(from_server, deadline_s)
            if kind == protocol.FAULT:
                raise _Broken(f"the server reported: {json.loads(body)}")
            if kind == protocol.END:
                break
            rest += body
            if b"\n" not in body:
                continue
            *whole, rest = rest.split(b"\n")
            for line in map(_parse, whole):
                lines.append(line)
                if keep_going and not stopped and len(lines) > 1 and not keep_going(line):
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
            end["stdout"],
            tuple((name, text) for name, text in end["files"]),
        )


class _Broken(Exception):
    """The protocol was broken off, or the server reported a fault."""


def _parse(line: bytearray) -> Any:
    """A line of the child, None if it is not JSON (a response wrote on the pipe)."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
