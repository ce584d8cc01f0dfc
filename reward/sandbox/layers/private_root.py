"""A root folder with Python's library, a scratch folder and nothing else."""

import ctypes
import os

from reward.sandbox.layers import files, kernel
from reward.sandbox.layers.base import Layer, Place, refuse

_RDONLY, _NOSUID, _AT_RECURSIVE, _AT_FDCWD = 1, 2, 0x8000, -100
_INODES = 10_000


class PrivateRoot(Layer):
    """A mount namespace of the server with two tmpfs: one read-only, that the jobs change their root to, and
    in it the scratch folders, with a bound on bytes and inodes.

    The server keeps the machine's root, so the jobs chroot(2); they hold no descriptor of a folder outside
    and no capability to leave again. No /proc is there.
    """

    name = "private_root"
    covers = "reading or seeing any file but Python's library; scratch bytes and inodes are bounded"

    def start(self, place: Place) -> None:
        kernel.unshare(kernel.NEWNS)
        root = place.scratch
        kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount("tmpfs", root, "tmpfs", kernel.MS_NOSUID, "mode=755,size=1m,nr_inodes=1k")
        for path in (*files.readable(), *files.DEVICES):
            if os.path.exists(path):
                _bind(path, root + path)
        for path in files.package_folders():
            kernel.mount("tmpfs", root + path, "tmpfs", kernel.MS_NOSUID, "mode=755,size=4k,nr_inodes=1")
        for path, target in files.system_links().items():
            if not os.path.lexists(root + path):
                os.symlink(target, root + path)
        jobs = os.path.join(root, "scratch")
        os.mkdir(jobs)
        _make_read_only(root)
        flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
        options = f"mode=711,size={place.limits.scratch_mib}m,nr_inodes={_INODES}"
        kernel.mount("tmpfs", jobs, "tmpfs", flags, options)
        place.jobs, place.private_root = jobs, True

    def apply(self, place: Place) -> None:
        os.chroot(place.scratch)  # the working directory, the job's folder, lies inside

    def check(self, place: Place) -> None:
        refuse(os.path.exists("/proc") or os.path.exists("/tmp"), "seeing the machine's folders")
        try:
            os.mkdir("/written")
        except OSError:
            return
        refuse(True, "writing into the root folder")


def _bind(source: str, target: str) -> None:
    if os.path.isdir(source):
        os.makedirs(target)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        open(target, "w").close()
    kernel.mount(source, target, "", kernel.MS_BIND | kernel.MS_REC)


def _make_read_only(root: str) -> None:
    """mount_setattr(2) on ``root`` and all mounts below: struct mount_attr is attr_set, attr_clr,
    propagation, userns_fd."""
    attributes = (ctypes.c_uint64 * 4)(_RDONLY | _NOSUID, 0, 0, 0)
    size = ctypes.sizeof(attributes)
    kernel.syscall("mount_setattr", _AT_FDCWD, os.fsencode(root), _AT_RECURSIVE, attributes, size)
