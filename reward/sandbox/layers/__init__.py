"""The layers of isolation, in the order in which a server starts them and a child applies them."""

from reward.sandbox.layers import kernel
from reward.sandbox.layers.base import Layer, LayerReport, Place
from reward.sandbox.layers.identity import Capabilities, UnprivilegedUser
from reward.sandbox.layers.landlock import Landlock
from reward.sandbox.layers.limits import Leash, NoNewPrivileges, ResourceLimits
from reward.sandbox.layers.namespaces import Namespace, PidNamespace, UserNamespace
from reward.sandbox.layers.private_root import PrivateRoot
from reward.sandbox.layers.seccomp import Seccomp

__all__ = ["MINIMUM", "Layer", "LayerReport", "Place", "layers_before_fork", "layers_of_server"]

#: Every name of one of these sets must be available, or a sandbox refuses to run: programs must be bounded,
#: cut off from network and processes, and unable to read the files that hold the answers.
MINIMUM = (
    frozenset({"limits", "no_new_privs", "leash", "seccomp", "private_root"}),
    frozenset({"limits", "no_new_privs", "leash", "seccomp", "landlock"}),
)


def layers_before_fork() -> list[Layer]:
    """What the process that starts the server does for it: the pid namespace begins with the next fork."""
    return [UserNamespace(), PidNamespace()]


def layers_of_server() -> list[Layer]:
    """The rest."""
    return [
        Namespace("net", kernel.NEWNET, "the network, also loopback"),
        Namespace("ipc", kernel.NEWIPC, "System V and POSIX message queues and shared memory"),
        Namespace("uts", kernel.NEWUTS, "setting the host's name"),
        ResourceLimits(),
        NoNewPrivileges(),
        PrivateRoot(),
        Landlock(),
        UnprivilegedUser(),
        Capabilities(),
        Leash(),
        Seccomp(),
    ]
