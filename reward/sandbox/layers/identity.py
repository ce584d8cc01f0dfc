"""Who the job is: a user that owns nothing, without capabilities."""

import contextlib
import ctypes
import os
import signal

from reward.sandbox.layers import kernel
from reward.sandbox.layers.base import Layer, Place, refuse

# Above the ranges that distributions and container managers hand out; plus the server's process id, so that
# jobs of two servers are strangers to each other.
_FIRST_UID = 0x70000000
_NOBODY = 65534
_CAPABILITY_VERSION = 0x20080522
_LAST_CAPABILITY = 63


class UnprivilegedUser(Layer):
    """Another user and group than the server's, no supplementary groups. Needs the right to change users, to
    signal the changed process and to clean up after it; and Python's library must be readable for others.
    """

    name = "user"
    covers = "files, processes and memory of the grader's user"

    def start(self, place: Place) -> None:
        errors = []
        for uid in (_FIRST_UID + place.host_pid, _NOBODY):
            error = _try_user(uid)
            if not error:
                place.uid, self.detail = uid, f"uid {uid}"
                return
            errors.append(error)
        raise OSError(f"uid {os.getuid()}, the server's own, stays: {errors[-1]}")

    def apply(self, place: Place) -> None:
        assert place.uid is not None
        os.setgroups([])
        os.setresgid(place.uid, place.uid, place.uid)
        os.setresuid(place.uid, place.uid, place.uid)

    def check(self, place: Place) -> None:
        with contextlib.suppress(PermissionError):
            os.setresuid(0, 0, 0)
        refuse(os.getuid() == 0, "becoming root again")
        with open(os.__file__, "rb") as library:  # a job imports modules that are not loaded yet
            library.read(1)
        with open("written", "w") as file:
            file.write("x")


class Capabilities(Layer):
    """No capability in any set."""

    name = "capabilities"
    covers = "the powers of root, where the job still is root"

    def start(self, place: Place) -> None:
        for number in range(_LAST_CAPABILITY + 1):
            try:
                kernel.prctl(kernel.CAPBSET_DROP, number)
            except OSError:  # past the kernel's last one, or not permitted: no_new_privs makes it moot
                break

    def apply(self, place: Place) -> None:
        kernel.syscall("capset", _header(), (ctypes.c_uint32 * 6)())

    def check(self, place: Place) -> None:
        sets = (ctypes.c_uint32 * 6)()
        kernel.syscall("capget", _header(), sets)
        refuse(any(sets), "using capabilities")


def _header() -> ctypes.Array[ctypes.c_uint32]:
    return (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)


def _try_user(uid: int) -> str:
    """Whether a process may become ``uid`` and still be killed; the reason if not."""
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ready)
        error = b""
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        except OSError as failed:
            error = str(failed).encode()
        os.write(tell, error or b"+")
        os.close(tell)
        if not error:
            signal.sigtimedwait([], 5)
        os._exit(0)
    os.close(tell)
    with open(ready, "rb") as pipe:
        answer = pipe.read().decode()
    try:
        os.kill(child, signal.SIGKILL)
    except PermissionError as failed:
        answer = str(failed)
    os.waitpid(child, 0)
    return "" if answer == "+" else answer
