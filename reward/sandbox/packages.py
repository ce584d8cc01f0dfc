"""Installed packages that programs may import: loaded once in the fork server, before the first job that names them.

Their files stay hidden from jobs, as those of all packages are: a job finds the loaded modules, of a package that is
imported by parts those parts (``scipy.optimize``) that are offered by name. A server whose jobs name none pays for none.
"""

import contextlib
import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator

from reward.sandbox import codec

#: So that a package starts no thread in the server, which forks, and none in a job, which may not have one.
ONE_THREAD = dict.fromkeys(
    (
        "OPENBLAS_NUM_THREADS",
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "BLIS_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
    ),
    "1",
)
_PARTS = {
    "numpy": (
        *("char", "ctypeslib", "fft", "lib.recfunctions", "lib.stride_tricks", "linalg", "ma", "matlib"),
        *("polynomial", "random", "rec", "strings", "testing", "typing"),
    )
}
_SEED = 0


@functools.cache
def folder_of(package: str) -> str | None:
    """The folder that a package is installed in, None if it is not there. Imports nothing."""
    top = package.partition(".")[0]
    if top in sys.stdlib_module_names:
        return None
    try:
        found = importlib.util.find_spec(top)
    except ValueError:  # a module without a spec, such as __main__
        return None
    if found is None or found.origin in (None, "built-in", "frozen"):
        return None
    place = os.path.dirname(str(found.origin))
    return os.path.dirname(place) if found.submodule_search_locations else place


def absent(packages: Iterable[str]) -> list[str]:
    """Those that are not installed here."""
    return [one for one in packages if folder_of(one) is None]


def to_load(packages: Iterable[str], loaded: set[str], *texts: str) -> Iterator[tuple[str, str]]:
    """(package, its folder) of those that are named in one of the texts, installed, and not in ``loaded``, to which
    they are added."""
    for package in packages:
        if package not in loaded and any(package.partition(".")[0] in text for text in texts):
            loaded.add(package)
            if (folder := folder_of(package)) is not None:
                yield package, folder


def load(package: str, folder: str) -> None:
    """Import a package and its parts into this process. One that cannot be imported is not there, and written to
    stderr."""
    sys.path.append(folder)
    try:
        importlib.import_module(package)
        for part in _PARTS.get(package, ()):
            with contextlib.suppress(ImportError):  # other versions have other parts
                importlib.import_module(f"{package}.{part}")
    except Exception as error:  # noqa: BLE001  a package may raise anything
        os.write(2, f"the package {package} cannot be imported: {type(error).__name__}: {error}\n".encode())
    finally:
        sys.path.remove(folder)
    if "selectors" in sys.modules:
        found = vars(sys.modules["selectors"])
        found["DefaultSelector"] = found["PollSelector"]  # jobs have no epoll
    if package == "numpy" and "numpy.random" in sys.modules:
        numpy = sys.modules["numpy"]
        numpy.random.seed(_SEED)  # each job's start, as that of Python's own random
        codec.PLAIN.update({kind: kind.item for kind in set(numpy.sctypeDict.values())})
    if package == "sortedcontainers" and package in sys.modules:
        kinds = sys.modules[package]
        codec.PLAIN.update(
            {kinds.SortedList: list, kinds.SortedKeyList: list, kinds.SortedSet: set, kinds.SortedDict: dict}
        )
