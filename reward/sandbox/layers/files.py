"""The files that a job may read: Python's library without installed packages, and what it is linked to."""

import os
import sys

PACKAGES = ("site-packages", "dist-packages")
DEVICES = ("/dev/null", "/dev/urandom")
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo")


def readable() -> list[str]:
    """Files and folders, no one below another; symbolic links of the system (/lib) are resolved."""
    own = [path for path in sys.path if path and not path.endswith(PACKAGES)]
    own.append(os.path.join(sys.base_prefix, "lib"))  # libpython, where it is a shared library
    found: list[str] = []
    for path in sorted({os.path.realpath(path) for path in (*own, *_LIBRARIES) if os.path.exists(path)}):
        if not any(path.startswith(f"{other}/") for other in found):
            found.append(path)
    return found


def package_folders() -> list[str]:
    """The folders of installed packages inside ``readable()``: they may hold this project, and with it the
    generator of problems and answers."""
    found = []
    for root in readable():
        depth = root.count("/")
        for folder, names, _ in os.walk(root):
            found += [os.path.join(folder, name) for name in names if name in PACKAGES]
            if folder.count("/") - depth >= 1:
                names.clear()
            names[:] = [name for name in names if name.startswith("python")]
    return found


def readable_without_packages() -> list[str]:
    """``readable()`` with each folder that holds packages replaced by its other entries."""
    hidden, paths = package_folders(), readable()
    for folder in sorted({parent for path in hidden for parent in _parents(path)}):
        if folder in paths:
            paths.remove(folder)
            paths += [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
    return [path for path in paths if path not in hidden]


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(2, len(parts))]


def system_links() -> dict[str, str]:
    """Top-level symbolic links to libraries, such as /lib -> usr/lib, that a root folder must repeat."""
    return {path: os.readlink(path) for path in _LIBRARIES if os.path.islink(path)}
