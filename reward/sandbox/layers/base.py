"""What a layer of isolation is."""

from dataclasses import dataclass

from reward.sandbox.protocol import SandboxLimits


@dataclass(frozen=True)
class LayerReport:
    """What a server found when it tried a layer. detail: why not, or what deserves to be known."""

    name: str
    available: bool
    detail: str


@dataclass
class Place:
    """Where and for whom the layers are set up.

    scratch: the server's folder. jobs: the folder that holds a job's folder, below ``scratch``. host_pid: the
    server's process id outside its namespaces, unique on the machine; server_pid: the one inside. private_root: whether ``scratch`` is
    the root folder of the jobs. loaded_bytes: address space of the packages that the server has loaded, which is not
    counted as a job's memory. uid: the user of the jobs, None for the server's own.
    """

    scratch: str
    limits: SandboxLimits
    jobs: str = ""
    host_pid: int = 0
    server_pid: int = 0
    private_root: bool = False
    uid: int | None = None
    loaded_bytes: int = 0


class Layer:
    """One means of isolation. ``covers`` says in one line what it takes away from a response.

    A server calls ``start`` once and ``apply`` in every child. Each may raise OSError: the layer is then
    reported as unavailable. ``check`` runs after both, in a child that is thrown away, tries what the layer
    forbids and raises OSError if that succeeds.
    """

    name = ""
    covers = ""
    detail = ""

    def start(self, place: Place) -> None:
        """Prepare, in the server, what all children share."""

    def apply(self, place: Place) -> None:
        """Isolate this process, a child, for good. Few system calls: it is part of every job's time."""

    def check(self, place: Place) -> None:
        """Try what is forbidden. Raises OSError if it is possible."""


def refuse(possible: bool, what: str) -> None:
    """For ``check``: raise OSError if ``what`` was possible."""
    if possible:
        raise OSError(f"{what} is still possible")
