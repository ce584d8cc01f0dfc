"""The system calls that Python's ``os`` lacks, each raising OSError as those of ``os`` do."""

import ctypes
import os
import platform
from typing import Any

PDEATHSIG, DUMPABLE, CAPBSET_DROP, CHILD_SUBREAPER, NO_NEW_PRIVS, GET_NO_NEW_PRIVS = 1, 4, 24, 36, 38, 39
NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x00020000,
    0x04000000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 0x1000, 0x4000, 0x40000

MACHINE = platform.machine()
# Numbers of the calls that a layer makes itself; those above 423 are the same on every architecture.
_PER_MACHINE = {"x86_64": {"seccomp": 317, "capget": 125, "capset": 126}}
_PER_MACHINE["aarch64"] = {"seccomp": 277, "capget": 90, "capset": 91}
_NUMBERS = {
    "mount_setattr": 442,
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
    **_PER_MACHINE.get(MACHINE, {}),
}
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def syscall(name: str, *arguments: Any) -> int:
    """Make a call by number. Integers are passed as 64 bits. Raises OSError, also for an unknown machine."""
    if name not in _NUMBERS:
        raise OSError(f"no number of {name} is known for {MACHINE}")
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _checked(_libc.syscall(ctypes.c_long(_NUMBERS[name]), *words), name)


def prctl(option: int, value: int) -> int:
    """prctl(2) with one argument."""
    return _checked(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"prctl({option}, {value})")


def unshare(flags: int) -> None:
    """unshare(2)."""
    _checked(_libc.unshare(flags), f"unshare({flags:#x})")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """mount(2)."""
    texts = [os.fsencode(text) for text in (source, target, kind)]
    _checked(
        _libc.mount(*texts, ctypes.c_ulong(flags), os.fsencode(options)), f"mount({kind or source}, {target})"
    )


def libc(name: str, *arguments: Any) -> int:
    """A function of the C library, for probes that try something forbidden."""
    return _checked(getattr(_libc, name)(*arguments), name)


def _checked(result: int, what: str) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result
