"""The fork server: one single-threaded process that forks an isolated child per job.

Started by ``client`` as ``python -P -s -S -B -m reward.sandbox.server`` (in effect) with a clean environment.
A fork of this process has the interpreter and the modules of the problems' setup code already loaded, so a
job costs one fork instead of an interpreter start.

    keeper (makes the user and pid namespaces; ends the server with the client, and cleans up after it)
      -> server (makes the other layers of isolation)
           -> child (isolated; runs the response)

A child inherits this process's memory, so jobs and results pass through two buffers that are wiped: a
response finds neither another response nor its results nor an expected value there. Setup codes and the
problems' calls stay.
"""

import bisect  # noqa: F401  (the modules of setup codes, loaded once for all children)
import builtins
import collections
import contextlib
import dataclasses
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
import string  # noqa: F401
import sys
import time
import types
import typing

from reward.sandbox import keeper, layers, observe, packages, protocol, runner, setup_code, stack, sweep
from reward.sandbox.calls import CompiledCalls
from reward.sandbox.isolation import Isolation, make_folder
from reward.sandbox.layers import Place, kernel
from reward.sandbox.protocol import SandboxLimits, Status

_SETUPS_KEPT = 64
_RESULT_FD = 3
_RELAY_BYTES = 1 << 16
_LOOK_S = 0.1  # between looks at the size of a scratch folder that no tmpfs bounds


class Server:
    """Serves jobs one after the other until its client goes away."""

    def __init__(self, read_fd: int, write_fd: int, place: Place, isolation: Isolation) -> None:
        self._read_fd, self._write_fd = read_fd, write_fd
        self._place, self._isolation = place, isolation
        self._devnull = os.open(os.devnull, os.O_RDWR)
        self._jobs = 0
        self._setup: types.CodeType | None = None
        self._setups: collections.OrderedDict[str, types.CodeType | None] = collections.OrderedDict()
        self._calls = CompiledCalls()
        self._job, self._result = protocol.Buffer(), protocol.Buffer(_RELAY_BYTES)

    def serve(self) -> None:
        gc.disable()
        gc.freeze()
        while True:
            try:
                kind = self._job.read_frame(self._read_fd)
            except EOFError:
                return
            if kind == protocol.SETUP:
                self._setup = self._compiled_setup(self._job.text())
            if kind == protocol.CALLS:
                self._calls.add(self._job.text())
                gc.freeze()  # a collection in a child would write on, and so copy, every page of them
            if kind == protocol.LOAD:
                self._load(*json.loads(self._job.text()))
            if kind != protocol.JOB:
                continue  # a stop may arrive after its job had ended
            try:
                end = self._run()
            except OSError as error:
                protocol.write_frame(self._write_fd, protocol.FAULT, json.dumps(str(error)).encode())
                continue
            protocol.write_frame(self._write_fd, protocol.END, json.dumps(end).encode())

    def _load(self, package: str, folder: str) -> None:
        before = _address_space()
        packages.load(package, folder)
        self._place.loaded_bytes += max(0, _address_space() - before)
        gc.freeze()

    def _run(self) -> dict[str, object]:
        self._jobs += 1
        folder = os.path.join(self._place.jobs, str(self._jobs))
        head, exit_code, ended = self._job.head(), None, 0
        watch = head.watch
        # The child's layers, and the relay below, go by the limits of this job.
        self._place.limits = dataclasses.replace(
            self._place.limits, cpu_s=head.cpu_s, wall_s=head.wall_s, output_kib=head.output_kib
        )
        stdout_fd = os.memfd_create("stdout") if watch & protocol.STDOUT else None
        result_fd, child_fd = os.pipe()
        cpu_before_s, started_s = _children_cpu_s(), time.monotonic()
        deadline_s = started_s + head.wall_s
        try:
            make_folder(self._place, folder)
            child = os.fork()
            if child == 0:
                self._be_child(child_fd, stdout_fd)
            try:
                self._job.wipe()
                os.close(child_fd)
                status = self._relay(result_fd, child, deadline_s, folder)
                if watch & protocol.EXITS and status == "exited":
                    exit_code = observe.exit_code(child, self._read_fd, deadline_s)
            finally:
                ended = sweep.reap_all(child)
                self._result.wipe()
            cpu_s, wall_s = _children_cpu_s() - cpu_before_s, time.monotonic() - started_s
            if watch & (protocol.STDOUT | protocol.FILES):
                self._tell_watched(stdout_fd, folder if watch & protocol.FILES else None)
        finally:
            os.close(result_fd)
            if stdout_fd is not None:
                os.close(stdout_fd)
            # The whole of it: a job of the server's own user can write beside its folder, for the next to read.
            sweep.empty_folder(self._place.jobs)
        signal = os.WTERMSIG(ended) if status == "exited" and os.WIFSIGNALED(ended) else None
        return {
            "status": status,
            "exit_code": exit_code,
            "signal": signal,
            "cpu_ms": 1e3 * cpu_s,
            "wall_ms": 1e3 * wall_s,
        }

    def _tell_watched(self, stdout_fd: int | None, folder: str | None) -> None:
        """Send what a job printed and left, from a process of its own: the text would stay in this one's
        memory. Raises OSError if that process fails."""
        teller = os.fork()
        if teller == 0:
            failed = 1
            try:
                stdout = "" if stdout_fd is None else observe.beginning(stdout_fd, protocol.STDOUT_KIB)
                watched = {"stdout": stdout, "files": observe.files(folder) if folder else []}
                protocol.write_frame(self._write_fd, protocol.WATCHED, json.dumps(watched).encode())
                failed = 0
            finally:
                os._exit(failed)
        if os.waitpid(teller, 0)[1] != 0:
            raise OSError("the process that was to tell what a job printed and left has failed")

    def _compiled_setup(self, source: str) -> types.CodeType | None:
        """The problem's own code, trusted as far as compiling goes; None if it does not compile."""
        if source not in self._setups:
            try:
                self._setups[source] = setup_code.compile_setup(source)
            except (SyntaxError, ValueError):
                self._setups[source] = None
            if len(self._setups) > _SETUPS_KEPT:
                self._setups.popitem(last=False)
        return self._setups[source]

    def _relay(self, result_fd: int, child: int, deadline_s: float, folder: str) -> Status:
        """Pass the child's bytes on until it ends, or the time, the output or the client's patience does."""
        limits = self._place.limits
        left = limits.output_kib * 1024
        look_s = math.inf if self._place.private_root else _LOOK_S
        pidfd = os.pidfd_open(child)
        try:
            poll = select.poll()
            for fd in (result_fd, self._read_fd, pidfd):
                poll.register(fd, select.POLLIN)
            while True:
                wait_s = deadline_s - time.monotonic()
                if wait_s <= 0:
                    return "timeout"
                ready = dict(poll.poll(math.ceil(1e3 * min(wait_s, look_s))))
                if not ready and sweep.tree_bytes(folder) > limits.scratch_mib << 20:
                    return "output"
                if self._read_fd in ready:
                    return "stopped"  # a stop frame, or the client is gone: serve() finds out which
                if result_fd in ready:
                    count = self._result.read_some(result_fd)
                    if not count:
                        return "exited"
                    # Also what is beyond the limit: the line that the child was ready may stand before it.
                    self._result.write_frame(self._write_fd, protocol.LINES)
                    left -= count
                    if left < 0:
                        return "output"
                elif pidfd in ready:
                    return "exited"  # a stray descendant still holds the pipe
        finally:
            os.close(pidfd)

    def _be_child(self, fd: int, stdout_fd: int | None) -> typing.NoReturn:
        """In the forked child: isolate it, run the job, and exit as the runner says."""
        code = 1
        try:
            self._isolation.apply()
            self._isolate_descriptors(fd, stdout_fd)
            os.write(_RESULT_FD, json.dumps(protocol.READY).encode() + b"\n")
            job = json.loads(self._job.text(protocol.JobHead.SIZE))
            self._calls.put_into(job)
            code = runner.run_job(job, self._setup, _RESULT_FD, self._place.limits.recursion)
        except OSError as error:  # of the layers; the runner lets none through
            os.write(2, f"a layer of isolation failed on a job: {error}\n".encode())
        finally:
            os._exit(code)  # never return into the server's loop, whatever happened

    def _isolate_descriptors(self, fd: int, stdout_fd: int | None) -> None:
        for standard in (0, 1, 2):
            os.dup2(self._devnull, standard)
        if stdout_fd is not None:
            os.dup2(stdout_fd, 1)
        os.dup2(fd, _RESULT_FD)
        os.closerange(_RESULT_FD + 1, 1 << 16)


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _address_space() -> int:
    """Bytes that this process has mapped; 0 where that is not to be seen."""
    with contextlib.suppress(OSError), open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
    return 0


def _add_exit() -> None:
    """exit() and quit(), which a script has and an interpreter started with -S has not."""
    for name in ("exit", "quit"):
        setattr(builtins, name, sys.exit)


def main(root: str, scratch: str, limits_json: str) -> None:
    """Take the two pipes away from stdin and stdout, then serve. ``root`` is the folder that holds
    ``reward``."""
    limits = SandboxLimits(**json.loads(limits_json))
    limits = dataclasses.replace(limits, recursion=stack.make_room(limits.recursion))
    with contextlib.suppress(ValueError):
        sys.path.remove(root)  # a response has no business importing this project
    _add_exit()
    read_fd, write_fd = os.dup(0), os.dup(1)
    devnull = os.open(os.devnull, os.O_RDWR)
    os.dup2(devnull, 0)
    os.dup2(devnull, 1)
    os.close(devnull)
    os.chmod(scratch, 0o711)  # a job of another user may look up its own folder
    place = Place(scratch, limits, jobs=scratch)
    isolation = Isolation(place)
    isolation.start(layers.layers_before_fork())
    place.host_pid = keeper.fork_server(scratch, (read_fd, write_fd))
    place.server_pid = os.getpid()
    kernel.prctl(kernel.CHILD_SUBREAPER, 1)
    # A job of another user (not root) cannot trace this process or read its memory.
    kernel.prctl(kernel.DUMPABLE, 0)
    isolation.start(layers.layers_of_server())
    hello = {"pid": place.host_pid, "layers": [dataclasses.astuple(one) for one in isolation.reports]}
    protocol.write_frame(write_fd, protocol.HELLO, json.dumps(hello).encode())
    with contextlib.suppress(BrokenPipeError):  # the client died while we answered
        Server(read_fd, write_fd, place, isolation).serve()


if __name__ == "__main__":
    main(*sys.argv[1:4])
