"""The fork server: one single-threaded process that forks an isolated child per job.

Started by ``client`` as ``python -P -s -S -B -m reward.sandbox.server`` (in effect) with a clean environment.
A fork of this process has the interpreter and the modules of the problems' setup code already loaded, so a
job costs two forks instead of an interpreter start.

    server -> supervisor (own session; a response that kills, stops or reads its parent meets this one)
                  -> child (limits, scratch folder, result pipe; runs the response)
"""
# Plain system calls between fork and response.
# ruff: noqa: PTH103, PTH118

import bisect  # noqa: F401  (the modules of setup codes, loaded once for all children)
import builtins
import collections
import contextlib
import ctypes
import datetime  # noqa: F401
import functools  # noqa: F401
import gc
import heapq  # noqa: F401
import itertools  # noqa: F401
import json
import math
import operator  # noqa: F401
import os
import random  # noqa: F401
import re  # noqa: F401
import resource
import select
import signal
import string  # noqa: F401
import sys
import time
import types
import typing

from reward.sandbox import observe, protocol, runner, sweep
from reward.sandbox.protocol import SandboxLimits, Status

_SETUPS_KEPT = 64
_RESULT_FD = 3
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}, {value}): {os.strerror(error)}")


class Server:
    """Serves jobs one after the other until its client goes away."""

    def __init__(self, read_fd: int, write_fd: int, scratch: str, limits: SandboxLimits) -> None:
        self._read_fd, self._write_fd = read_fd, write_fd
        self._scratch, self._limits = scratch, limits
        self._pid, self._client = os.getpid(), os.getppid()
        self._jobs = 0
        self._setups: collections.OrderedDict[str, types.CodeType | None] = collections.OrderedDict()

    def serve(self) -> None:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        _prctl(
            _PR_SET_DUMPABLE, 0
        )  # another user's (not root's) job cannot trace this process or read its memory
        gc.disable()
        gc.freeze()
        while True:
            # A process forked by the client may hold our pipe open after the client died: look at both.
            if not select.select([self._read_fd], [], [], 1.0)[0]:
                if os.getppid() != self._client:
                    return
                continue
            try:
                kind, body = protocol.read_frame(self._read_fd)
            except EOFError:
                return
            if kind != protocol.JOB:
                continue  # a stop that arrived after its job had ended
            try:
                end = self._run(json.loads(body))
            except OSError as error:
                protocol.write_frame(self._write_fd, protocol.FAULT, json.dumps(str(error)).encode())
                continue
            protocol.write_frame(self._write_fd, protocol.END, json.dumps(end).encode())

    def _run(self, job: dict[str, typing.Any]) -> dict[str, object]:
        setup = self._compiled_setup(job["setup"])
        self._jobs += 1
        folder = os.path.join(self._scratch, str(self._jobs))
        os.makedirs(folder)
        watch, exit_code, stdout, files = job["watch"], None, "", list[tuple[str, str]]()
        stdout_fd = os.memfd_create("stdout") if watch["stdout"] else None
        result_fd, child_fd = os.pipe()
        cpu_before_s, started_s = _children_cpu_s(), time.monotonic()
        deadline_s = started_s + self._limits.wall_s
        try:
            supervisor = os.fork()
            if supervisor == 0:
                self._supervise(job, setup, child_fd, folder, stdout_fd)
            try:
                os.close(child_fd)
                status = self._relay(result_fd, supervisor, deadline_s)
                if watch["exits"] and status == "exited":
                    exit_code = observe.exit_code(supervisor, self._read_fd, deadline_s)
            finally:
                sweep.reap_all(supervisor)
            if stdout_fd is not None:
                stdout = observe.beginning(stdout_fd, protocol.STDOUT_KIB)
            if watch["files"]:
                files = observe.files(folder)
        finally:
            os.close(result_fd)
            if stdout_fd is not None:
                os.close(stdout_fd)
            sweep.remove_tree(folder)
        return {
            "status": status,
            "exit_code": exit_code,
            "stdout": stdout,
            "files": files,
            "cpu_ms": 1e3 * (_children_cpu_s() - cpu_before_s),
            "wall_ms": 1e3 * (time.monotonic() - started_s),
        }

    def _compiled_setup(self, source: str) -> types.CodeType | None:
        """The problem's own code, trusted as far as compiling goes; None if it does not compile."""
        if source not in self._setups:
            try:
                self._setups[source] = compile(source, "<setup>", "exec", dont_inherit=True)
            except (SyntaxError, ValueError):
                self._setups[source] = None
            if len(self._setups) > _SETUPS_KEPT:
                self._setups.popitem(last=False)
        return self._setups[source]

    def _relay(self, result_fd: int, supervisor: int, deadline_s: float) -> Status:
        """Pass the child's bytes on until it ends, or the time, the output or the client's patience does."""
        left = self._limits.output_kib * 1024
        pidfd = os.pidfd_open(supervisor)
        try:
            poll = select.poll()
            for fd in (result_fd, self._read_fd, pidfd):
                poll.register(fd, select.POLLIN)
            while True:
                wait_s = deadline_s - time.monotonic()
                if wait_s <= 0:
                    return "timeout"
                ready = dict(poll.poll(math.ceil(1e3 * wait_s)))
                if self._read_fd in ready:
                    return "stopped"  # a stop frame, or the client is gone: serve() finds out which
                if result_fd in ready:
                    data = os.read(result_fd, 65536)
                    left -= len(data)
                    if left < 0:
                        return "output"
                    if not data:
                        return "exited"
                    protocol.write_frame(self._write_fd, protocol.LINES, data)
                elif pidfd in ready:
                    return "exited"  # a stray descendant still holds the pipe
        finally:
            os.close(pidfd)

    def _supervise(
        self,
        job: dict[str, typing.Any],
        setup: types.CodeType | None,
        fd: int,
        folder: str,
        stdout_fd: int | None,
    ) -> typing.NoReturn:
        """In the forked supervisor: start the child, wait for it, and end as it ended."""
        code = 1
        try:
            os.setsid()
            _die_with(self._pid)
            me = os.getpid()
            child = os.fork()
            if child == 0:
                _die_with(me)
                self._isolate(fd, folder, stdout_fd)
                code = runner.run_job(job, setup, _RESULT_FD)
            else:
                os.closerange(0, 1 << 16)
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        finally:
            # never return into the server's loop, whatever happened; 1 also for the end by a signal
            os._exit(code if 0 <= code < 256 else 1)

    def _isolate(self, fd: int, folder: str, stdout_fd: int | None) -> None:
        devnull = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(devnull, standard)
        os.dup2(stdout_fd, 1) if stdout_fd is not None else None
        os.dup2(fd, _RESULT_FD) if fd != _RESULT_FD else None
        os.closerange(_RESULT_FD + 1, 1 << 16)
        os.chdir(folder)
        limits = self._limits
        for kind, value in (
            (resource.RLIMIT_CPU, math.ceil(limits.cpu_s)),
            (resource.RLIMIT_AS, limits.memory_mib << 20),
            (resource.RLIMIT_FSIZE, limits.file_mib << 20),
            (resource.RLIMIT_NOFILE, 64),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_NPROC, 0),  # no fork and no thread, except for root, whom the kernel exempts
        ):
            hard = resource.getrlimit(kind)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (value, value))
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, also if that has just happened."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _add_exit() -> None:
    """exit() and quit(), which a script has and an interpreter started with -S has not."""
    for name in ("exit", "quit"):
        setattr(builtins, name, sys.exit)


def main(root: str, scratch: str, limits_json: str) -> None:
    """Take the two pipes away from stdin and stdout, then serve. ``root`` is the folder that holds
    ``reward``."""
    with contextlib.suppress(ValueError):
        sys.path.remove(root)  # a response has no business importing this project
    _add_exit()
    read_fd, write_fd = os.dup(0), os.dup(1)
    devnull = os.open(os.devnull, os.O_RDWR)
    os.dup2(devnull, 0)
    os.dup2(devnull, 1)
    try:
        with contextlib.suppress(BrokenPipeError):  # the client died while we answered
            Server(read_fd, write_fd, scratch, SandboxLimits(**json.loads(limits_json))).serve()
    finally:
        sweep.remove_tree(scratch)  # the client removes it too, but may have been killed


if __name__ == "__main__":
    main(*sys.argv[1:4])
