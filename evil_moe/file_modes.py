"""Files that others may read: what the libraries write for their owner alone gets the modes that the umask says."""

from __future__ import annotations

from pathlib import Path

_FILE, _FOLDER = 0o666, 0o777


def apply_umask(path: Path) -> None:
    """Give a file, or a folder and all that is in it, the mode that a plain `open` or `mkdir` would have given it.

    safetensors writes with mode 600, and `tempfile` makes folders with 700. Execution bits of files are not kept.
    """
    # os.umask tells the mask only by setting another one, for all threads at once.
    status = Path("/proc/self/status").read_text().splitlines()
    mask = int(next(line.split()[1] for line in status if line.startswith("Umask:")), 8)
    for one in (path, *(path.rglob("*") if path.is_dir() else ())):
        one.chmod((_FOLDER if one.is_dir() else _FILE) & ~mask)
