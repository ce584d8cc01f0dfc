"""The process between client and server: it ends the server when the client dies, and cleans up after both."""

import contextlib
import os
import select
import signal

from reward.sandbox import sweep
from reward.sandbox.layers import kernel

_LOOK_MS = 1000  # between looks at whether the client lives


def fork_server(scratch: str, pipes: tuple[int, int]) -> int:
    """Fork the server off this process, which becomes its keeper. Returns in the server only: its process id
    as seen from outside its namespaces."""
    client = os.getppid()
    kernel.prctl(kernel.CHILD_SUBREAPER, 1)  # what outlives the server comes to the keeper
    reader, writer = os.pipe()
    server = os.fork()
    if server == 0:
        kernel.prctl(kernel.PDEATHSIG, signal.SIGKILL)
        os.close(writer)
        with open(reader, "rb") as pipe:
            return int(pipe.read())  # a ValueError ends the server of a keeper that has died
    os.write(writer, str(server).encode())
    for fd in (reader, writer, *pipes):  # the client must see the server's end as the end of its pipe
        os.close(fd)
    _keep(server, client, scratch)
    os._exit(0)


def _keep(server: int, client: int, scratch: str) -> None:
    kernel.prctl(kernel.DUMPABLE, 0)
    poll = select.poll()
    poll.register(os.pidfd_open(server), select.POLLIN)
    while not poll.poll(_LOOK_MS):
        # A process that the client forked may hold the server's pipe open after the client died.
        if os.getppid() != client:
            break
    sweep.reap_all(server)
    with contextlib.suppress(FileNotFoundError):  # the client removes it too
        sweep.remove_tree(scratch)
