"""What binds a process by itself: limits that the kernel counts, no way to gain privileges, a leash."""

import math
import mmap
import os
import resource
import signal

from reward.sandbox.layers import kernel
from reward.sandbox.layers.base import Layer, Place, refuse


class ResourceLimits(Layer):
    """setrlimit(2): a job is one process (``seccomp``), so limits per process are limits per job."""

    name = "limits"
    covers = "CPU time, memory, size of a file, number of open files, core dumps"

    def apply(self, place: Place) -> None:
        limits = place.limits
        for kind, value in (
            (resource.RLIMIT_CPU, math.ceil(limits.cpu_s)),
            (resource.RLIMIT_AS, (limits.memory_mib << 20) + place.loaded_bytes),
            (resource.RLIMIT_FSIZE, limits.file_mib << 20),
            (resource.RLIMIT_NOFILE, 64),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_NPROC, 0),  # no fork and no thread, except for root, whom the kernel exempts
        ):
            hard = resource.getrlimit(kind)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (value, value))

    def check(self, place: Place) -> None:
        try:
            mmap.mmap(-1, (place.limits.memory_mib + 1) << 20).close()
        except OSError:
            return
        refuse(True, "more memory than the limit")


class NoNewPrivileges(Layer):
    """prctl(2) PR_SET_NO_NEW_PRIVS: setuid programs lose their effect; Landlock and seccomp require it."""

    name = "no_new_privs"
    covers = "gaining privileges by executing a program"

    def apply(self, place: Place) -> None:
        kernel.prctl(kernel.NO_NEW_PRIVS, 1)

    def check(self, place: Place) -> None:
        # To try it would need a program that gives privileges; the kernel's word has to do.
        refuse(kernel.prctl(kernel.GET_NO_NEW_PRIVS, 0) != 1, "gaining privileges")


class Leash(Layer):
    """A session and process group of its own, and death with the server. Comes after the change of user,
    which would undo the second; ``seccomp`` keeps the job from undoing either."""

    name = "leash"
    covers = "outliving the server, leaving the process group that is killed at the end"

    def apply(self, place: Place) -> None:
        os.setsid()
        kernel.prctl(kernel.PDEATHSIG, signal.SIGKILL)
        if os.getppid() != place.server_pid:
            os._exit(0)  # the server died before

    def check(self, place: Place) -> None:
        refuse(os.getpgid(0) != os.getpid(), "being in the server's process group")
