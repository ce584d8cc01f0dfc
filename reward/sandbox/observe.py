"""What the server sees of a job from outside its process: how it ended, what it printed, what it left.

All of it is bounded, and none of it is taken from what the child says about itself.
"""

import contextlib
import os
import select
import stat
import time

from reward.sandbox import protocol


def exit_code(leader: int, client_fd: int, deadline_s: float) -> int | None:
    """The exit status of ``leader``, a child of this process that is left unreaped.

    None if it was ended by a signal, or has not ended when the deadline passes or the client speaks.
    """
    poll = select.poll()
    pidfd = os.pidfd_open(leader)
    try:
        for fd in (pidfd, client_fd):
            poll.register(fd, select.POLLIN)
        ready = dict(poll.poll(max(0.0, 1e3 * (deadline_s - time.monotonic()))))
    finally:
        os.close(pidfd)
    if pidfd not in ready:
        return None
    ended = os.waitid(os.P_PID, leader, os.WEXITED | os.WNOWAIT)
    return ended.si_status if ended is not None and ended.si_code == os.CLD_EXITED else None


def beginning(fd: int, kib: int) -> str:
    """The first ``kib`` KiB of a file, with U+FFFD for what is not UTF-8."""
    return os.pread(fd, kib * 1024, 0).decode(errors="replace")


def files(folder: str) -> list[tuple[str, str]]:
    """(name, beginning) of the regular files at the top of a folder whose processes are all gone."""
    found: list[tuple[str, str]] = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if len(found) == protocol.FILES_KEPT:
                break
            with contextlib.suppress(OSError):
                # neither a link nor a pipe without writer is to take this process anywhere
                fd = os.open(os.path.join(folder, entry.name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    if stat.S_ISREG(os.fstat(fd).st_mode):
                        name = os.fsencode(entry.name).decode(errors="replace")
                        found.append((name, beginning(fd, protocol.FILE_KIB)))
                finally:
                    os.close(fd)
    return found
