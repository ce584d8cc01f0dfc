"""Landlock (Linux 5.13): access to files by allow-list, also where no namespace can be made."""

import ctypes
import os

from reward.sandbox.layers import files, kernel
from reward.sandbox.layers.base import Layer, Place, refuse

_PATH_BENEATH = 1
_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_TRUNCATE = 1 << 14
_REMOVE_MAKE = 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 12  # of folders, regular files, symbolic links
_REFER = 1 << 13
# Rights on files that each version of the interface knows, then: TCP bind and connect, scopes (abstract
# sockets, signals).
_FS_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_TCP, _SCOPES = 0b11, 0b11


class Landlock(Layer):
    """Read Python's library, write in the scratch folder, execute nothing. From version 4 of the interface
    also no TCP, from 6 no signal to a process outside. Metadata (stat) stays visible.
    """

    name = "landlock"
    covers = "reading files other than Python's library, writing outside the scratch folder, tracing"

    def __init__(self) -> None:
        self._ruleset = -1

    def start(self, place: Place) -> None:
        version = kernel.syscall("landlock_create_ruleset", None, 0, 1)
        handled = (1 << _FS_RIGHTS[min(version, max(_FS_RIGHTS))]) - 1
        rights = [handled, _TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0]
        words = rights[: 1 if version < 4 else 2 if version < 6 else 3]
        attributes = (ctypes.c_uint64 * len(words))(*words)
        self._ruleset = kernel.syscall("landlock_create_ruleset", attributes, ctypes.sizeof(attributes), 0)
        self.detail = f"version {version} of the interface"
        inside = place.scratch if place.private_root else ""
        paths = files.readable() if place.private_root else files.readable_without_packages()
        for path in paths:
            self._allow(inside + path, _READ_FILE | _READ_DIR)
        for path in files.DEVICES:
            self._allow(inside + path, _READ_FILE | _WRITE_FILE | (_TRUNCATE & handled))
        write = _READ_FILE | _READ_DIR | _WRITE_FILE | _REMOVE_MAKE | _REFER | _TRUNCATE
        self._allow(place.jobs, write & handled)

    def _allow(self, path: str, rights: int) -> None:
        if not os.path.exists(path):
            return
        if not os.path.isdir(path):
            rights &= _READ_FILE | _WRITE_FILE | _TRUNCATE
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:  # struct landlock_path_beneath_attr, packed: u64 rights, s32 descriptor
            attributes = rights.to_bytes(8, "little") + fd.to_bytes(4, "little")
            kernel.syscall("landlock_add_rule", self._ruleset, _PATH_BENEATH, attributes, 0)
        finally:
            os.close(fd)

    def apply(self, place: Place) -> None:
        kernel.syscall("landlock_restrict_self", self._ruleset, 0)

    def check(self, place: Place) -> None:
        try:
            os.close(os.open("/", os.O_RDONLY))
        except PermissionError:
            return
        refuse(True, "reading the root folder")
