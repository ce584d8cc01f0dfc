"""The rows of a file of problems: JSON lines, plain or gzipped, a JSON list, or Parquet."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reward.jsonl import SUFFIXES, read_rows

ENDINGS = (*SUFFIXES, ".json", ".json.gz", ".parquet")
_WHAT = "problem file"


def problem_rows(path: Path, errors: list[str]) -> Iterator[tuple[str, Any]]:
    """``(place, row)`` of every row; the place is "file:line", or "file: row N" where there are no lines. A line that is not
    JSON goes to ``errors``, and the next is read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is of another kind, or damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such {_WHAT}; give the path of a .jsonl or .jsonl.gz file")
    if not path.name.endswith(ENDINGS):
        raise ValueError(
            f"{path}: the name of a {_WHAT} must end in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}; rename or convert it"
        )
    if path.name.endswith(".parquet"):
        return _parquet(path)
    if path.name.endswith(SUFFIXES):
        return read_rows(path, _WHAT, errors)
    return _json(path, errors)


def _json(path: Path, errors: list[str]) -> Iterator[tuple[str, Any]]:
    """A list of rows, or, under the same ending, lines."""
    try:
        text = gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()
        rows = json.loads(text)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: damaged gzip data ({error}); write or fetch it again") from error
    except (ValueError, RecursionError) as error:
        if not text.lstrip().startswith(b"{"):
            raise ValueError(f"{path}: is not JSON ({error}); it must be a list of objects") from error
        yield from read_rows(path, _WHAT, errors)
        return
    if isinstance(rows, dict):  # one row, or rows by name
        rows = [rows] if not all(isinstance(one, dict) for one in rows.values()) else list(rows.values())
    if not isinstance(rows, list):
        raise ValueError(f"{path}: is a JSON {type(rows).__name__}; it must be a list of objects")
    for number, row in enumerate(rows):
        yield f"{path}: row {number}", row


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow.parquet
        from pyarrow import ArrowException
    except ImportError as error:
        raise ValueError(
            f"{path}: reading Parquet needs the package pyarrow; pip install pyarrow, or write the rows as .jsonl"
        ) from error
    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=256):
            for row in batch.to_pylist():
                yield f"{path}: row {number}", row
                number += 1
    except ArrowException as error:
        raise ValueError(f"{path}: cannot be read as Parquet ({error}); write or fetch it again") from error
