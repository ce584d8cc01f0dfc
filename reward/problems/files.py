"""Problem files: read in any of the known forms, written as JSONL, plain or gzipped, one problem a line."""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from reward.jsonl import require_suffix, write_whole
from reward.problems.forms.known import is_own, to_problem
from reward.problems.rows import problem_rows
from reward.problems.schema import Problem

SHOWN = 20
_WHAT = "problem file"


@dataclass(frozen=True)
class Loaded:
    """A file's problems, and what is wrong with its other rows: (id, if it has one, and a message with its place). own:
    whether all rows were of the benchmark's form."""

    problems: list[Problem]
    refused: list[tuple[int | str | None, str]]
    own: bool


def read_problems(path: str | os.PathLike[str]) -> Loaded:
    """Read every row of a file: .jsonl, .jsonl.gz, .json (a list) or .parquet, in the benchmark's form or another known one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, or holds no rows.
    """
    problems: list[Problem] = []
    refused: list[tuple[int | str | None, str]] = []
    place_of: dict[int | str, str] = {}
    own, broken = True, list[str]()
    for where, row in problem_rows(Path(path), broken):
        refused += [(None, message) for message in broken]
        broken.clear()
        own &= is_own(row)
        try:
            problem = to_problem(row, where)
            if problem.id in place_of:
                raise ValueError(
                    f"{where}: field 'id' {problem.id!r} is already used on line "
                    f"{place_of[problem.id].removeprefix(f'{path}:').strip()}; make ids unique"
                )
        except ValueError as error:
            refused.append((_id_of(row), str(error)))
            continue
        place_of[problem.id] = where
        problems.append(problem)
    refused += [(None, message) for message in broken]
    if not problems and not refused:
        raise ValueError(f"{path}: holds no problems; write one JSON object per line")
    return Loaded(problems, refused, own)


def _id_of(row: object) -> int | str | None:
    names = ("id", "question_id", "problem_id", "task_id")
    values = [row.get(name) for name in names] if isinstance(row, dict) else []
    return next((value for value in values if isinstance(value, int | str)), None)


def load_problems(path: str | os.PathLike[str]) -> list[Problem]:
    """The problems of a file, all of which can be used.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: anything malformed, with file, line and field; all rows that are, up to ``SHOWN``.
    """
    loaded = read_problems(path)
    require_all(path, loaded)
    return loaded.problems


def require_all(path: str | os.PathLike[str], loaded: Loaded) -> None:
    """Raises ValueError with what is wrong with every refused row, if there are any."""
    messages = [message for _, message in loaded.refused]
    if len(messages) == 1:
        raise ValueError(messages[0])
    if messages:
        more = [f"... and {len(messages) - SHOWN} more"] if len(messages) > SHOWN else []
        count = f"{len(messages)} of its {len(messages) + len(loaded.problems)} rows cannot be used"
        hint = "" if loaded.own else "; data prepare --from FILE --out FOLDER leaves them out, and says why"
        raise ValueError("\n  ".join([f"{path}: {count}{hint}:", *messages[:SHOWN], *more]))


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
