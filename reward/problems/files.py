"""Problem files: JSONL, plain or gzipped, one problem a line."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from reward.jsonl import read_rows, require_suffix, write_whole
from reward.problems.schema import Problem

_WHAT = "problem file"


def load_problems(path: str | os.PathLike[str]) -> list[Problem]:
    """Read a .jsonl or .jsonl.gz file; blank lines are skipped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: anything malformed, with file, line and field.
    """
    problems: list[Problem] = []
    place_of: dict[int | str, str] = {}
    for where, row in read_rows(Path(path), _WHAT):
        problem = Problem.from_row(row, where)
        if problem.id in place_of:
            raise ValueError(
                f"{where}: field 'id' {problem.id!r} is already used on line "
                f"{place_of[problem.id].rpartition(':')[2]}; make ids unique"
            )
        place_of[problem.id] = where
        problems.append(problem)
    if not problems:
        raise ValueError(f"{path}: holds no problems; write one JSON object per line")
    return problems


def write_problems(path: str | os.PathLike[str], problems: Iterable[Problem]) -> None:
    """Write a .jsonl or .jsonl.gz file, whole or not at all; the same problems give the same bytes.

    Raises ValueError for a name that ``load_problems`` would refuse.
    """
    path = Path(path)
    require_suffix(path, _WHAT)
    write_whole(path, "".join(json.dumps(problem.to_row()) + "\n" for problem in problems).encode())


def checksum(problems: Iterable[Problem]) -> str:
    """sha256 over the rows in order, with sorted keys; independent of file format."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(json.dumps(problem.to_row(), sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
