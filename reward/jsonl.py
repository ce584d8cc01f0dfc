"""Lines of JSON, plain or gzipped: read with their places, written whole or not at all."""

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SUFFIXES = (".jsonl", ".jsonl.gz")


def require_suffix(path: Path, what: str) -> None:
    """Raises ValueError for a name that does not say which of the two formats it is."""
    if not path.name.endswith(SUFFIXES):
        raise ValueError(
            f"{path}: the name of a {what} must end in .jsonl or .jsonl.gz; rename or convert it"
        )


def read_rows(path: Path, what: str, errors: list[str] | None = None) -> Iterator[tuple[str, Any]]:
    """``("file:line", value)`` of every line that is not blank. ``what`` names the kind of file in errors, e.g. "problem file".
    errors: where what is wrong with a line's JSON is put; without it, the first such line raises.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the name's ending, the compression, the encoding or a line's JSON; with file and line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such {what}; give the path of a .jsonl or .jsonl.gz file")
    if errors is None:
        require_suffix(path, what)
    for number, line in _lines(path):
        where = f"{path}:{number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            message = f"{where}: not JSON ({error}); each line must be one JSON object"
            if errors is None:
                raise ValueError(message) from error
            errors.append(message)
            continue
        yield where, value


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines that are not blank."""
    number = 0
    try:
        with gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if text := line.decode("utf-8").strip():
                    yield number, text
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}:{number}: not UTF-8 ({error}); save the file as UTF-8") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{path}:{number + 1}: damaged gzip data ({error}); write or fetch it again"
        ) from error


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all; a name ending in .gz compresses, the same data to the same bytes."""
    if path.name.endswith(".gz"):
        data = gzip.compress(data, mtime=0)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
