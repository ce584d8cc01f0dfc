"""A policy's folder in the cache: written once, whole, whoever else builds the same one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from evil_moe.file_modes import apply_umask

_DONE = "config.json"


def is_built(folder: Path) -> bool:
    """Whether a policy is there."""
    return (folder / _DONE).is_file()


def build_once(folder: Path, build: Callable[[Path], None]) -> None:
    """Have `build` fill a scratch folder, which then becomes `folder`: nothing half-built is ever found under its name, and
    of two processes that build the same policy the slower takes the other's.

    Raises:
        OSError: it cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        build(scratch)
        apply_umask(scratch)
        scratch.replace(folder)
    except OSError:
        if not is_built(folder):  # else another process was faster
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)  # not there if it became the folder
