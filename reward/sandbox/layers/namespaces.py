"""Namespaces, made once per server: a job sees no process, network or queue of the machine.

Once per server and not per job, because a network namespace costs milliseconds. What follows: jobs of one
server share its namespaces one after the other. Nothing outlives a job in them: its one process is reaped,
and System V objects and sockets, which would, cannot be made (``seccomp``).
"""

import os

from reward.sandbox.layers import kernel
from reward.sandbox.layers.base import Layer, Place, refuse


class UserNamespace(Layer):
    """An own user namespace, which gives an ordinary user the right to make the others. Root with
    CAP_SYS_ADMIN needs none. The one user that is mapped keeps its number."""

    name = "user_namespace"
    covers = "privileges over anything outside, for a server that has none to begin with"

    def start(self, place: Place) -> None:
        if _may_unshare():
            self.detail = "not needed: the server may make the others"
            return
        uid, gid = os.geteuid(), os.getegid()
        kernel.unshare(kernel.NEWUSER)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{uid} {uid} 1")
        _write("/proc/self/gid_map", f"{gid} {gid} 1")

    def check(self, place: Place) -> None:
        refuse(not _may_unshare(), "having no right to make namespaces")


class PidNamespace(Layer):
    """The processes started from now on form a tree of their own, in which the server is process 1: signals
    from inside cannot kill or stop it, and nothing survives it."""

    name = "pid_namespace"
    covers = "seeing or signalling processes other than the server and the job"

    def start(self, place: Place) -> None:
        kernel.unshare(kernel.NEWPID)

    def check(self, place: Place) -> None:
        child = os.fork()
        if child == 0:
            os._exit(os.getpid() != 1)
        refuse(os.waitpid(child, 0)[1] != 0, "seeing the outer processes")


class Namespace(Layer):
    """Any other namespace: leaving it is all there is to it."""

    def __init__(self, kind: str, flag: int, covers: str) -> None:
        self.name, self.covers = f"{kind}_namespace", covers
        self._link, self._flag = f"/proc/self/ns/{kind}", flag
        self._outside = ""

    def start(self, place: Place) -> None:
        self._outside = os.readlink(self._link)
        kernel.unshare(self._flag)

    def check(self, place: Place) -> None:
        refuse(os.readlink(self._link) == self._outside, f"being in {self._outside}")


def _may_unshare() -> bool:
    child = os.fork()
    if child == 0:
        try:
            kernel.unshare(kernel.NEWUTS)
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
