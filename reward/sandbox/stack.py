"""Room for deep recursion: a stack that may grow as far as the recursion limit lets Python go."""

import contextlib
import os
import resource
import sys

# A level of Python takes no stack as such, but what stands between two levels does: 0.5 to 1 KiB in most of C
# (a cache, operators, map, re.sub), 2.5 KiB in sorted(key=...), the most that was found (CPython 3.11, x86-64).
PER_LEVEL = 2560
_GUARD = 2 << 20  # the kernel keeps 1 MiB between the stack and what lies below


def make_room(levels: int) -> int:
    """Let this process's stack grow for ``levels`` of recursion, or for as many as its hard limit allows (Python's
    own number where no limit may be looked at), which are returned.

    The kernel leaves below the stack what the limit was when the program was executed; more is there by chance.
    If it is not, the program is executed once more.
    """
    try:
        soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    except OSError:
        return min(levels, sys.getrecursionlimit())
    size = PER_LEVEL * levels if hard == resource.RLIM_INFINITY else min(PER_LEVEL * levels, hard)
    if soft != size:
        resource.setrlimit(resource.RLIMIT_STACK, (size, hard))
        if _free_below() < size + _GUARD:
            os.execv(sys.executable, sys.orig_argv)
    return min(levels, size // PER_LEVEL)


def _free_below() -> int:
    """Bytes between the end of the mapping below the stack and the stack's own end; 0 if that is not to be seen."""
    below = 0
    with contextlib.suppress(OSError), open("/proc/self/maps") as file:
        for line in file:
            end = int(line.split(maxsplit=1)[0].partition("-")[2], 16)
            if line.rstrip().endswith("[stack]"):
                return end - below
            below = end
    return 0
