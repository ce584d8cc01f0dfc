"""Problem files: read in any of the known forms, written as JSONL, plain or gzipped, one problem a line."""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from reward.errors import SeveralErrors
from reward.jsonl import require_suffix, write_whole
from reward.problems.forms.known import is_own, to_problem
from reward.problems.rows import problem_rows
from reward.problems.schema import Problem

SHOWN, SHOWN_PLACES = 20, 5
_WHAT = "problem file"


@dataclass(frozen=True)
class Refused:
    """A row that cannot be used. id: if it has one. place: "file:line" or "file: row N"."""

    id: int | str | None
    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


@dataclass(frozen=True)
class Loaded:
    """A file's problems, and the rows that cannot be used. own: whether all rows were of the benchmark's form."""

    problems: list[Problem]
    refused: list[Refused]
    own: bool

    def lines(self) -> list[str]:
        """What is wrong with the refused rows, for people; rows with the same reason share a line."""
        places: dict[str, list[str]] = {}
        for row in self.refused:
            places.setdefault(row.reason, []).append(row.place)
        return [f"{_together(where)}: {reason}" for reason, where in places.items()]


def _together(places: list[str]) -> str:
    others = [place.rpartition(":")[2].strip() for place in places[1:]]
    more = f" and {len(others) - SHOWN_PLACES} more" if len(others) > SHOWN_PLACES else ""
    return ", ".join([places[0], *others[:SHOWN_PLACES]]) + more


def read_problems(path: str | os.PathLike[str]) -> Loaded:
    """Read every row of a file: .jsonl, .jsonl.gz, .json (a list) or .parquet, in the benchmark's form or another known one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, or holds no rows.
    """
    problems: list[Problem] = []
    refused: list[Refused] = []
    place_of: dict[int | str, str] = {}
    own, broken = True, list[str]()
    for where, row in problem_rows(Path(path), broken):
        refused += map(_broken, broken)
        broken.clear()
        own &= is_own(row)
        try:
            problem = to_problem(row, where)
            if problem.id in place_of:
                raise ValueError(
                    f"field 'id' {problem.id!r} is already used on line "
                    f"{place_of[problem.id].removeprefix(f'{path}:').strip()}; make ids unique"
                )
        except ValueError as error:
            refused.append(Refused(_id_of(row), where, str(error).removeprefix(f"{where}: ")))
            continue
        place_of[problem.id] = where
        problems.append(problem)
    refused += map(_broken, broken)
    if not problems and not refused:
        raise ValueError(f"{path}: holds no problems; write one JSON object per line")
    return Loaded(problems, refused, own)


def _broken(message: str) -> Refused:
    place, _, reason = message.partition(": not JSON")
    return Refused(None, place, f"not JSON{reason}")


def _id_of(row: object) -> int | str | None:
    names = ("id", "question_id", "problem_id", "task_id")
    values = [row.get(name) for name in names] if isinstance(row, dict) else []
    return next((value for value in values if isinstance(value, int | str)), None)


def load_problems(path: str | os.PathLike[str]) -> list[Problem]:
    """The problems of a file, all of which can be used.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: anything malformed, with file, line and field; all that is, up to ``SHOWN`` lines.
    """
    loaded = read_problems(path)
    require_all(path, loaded)
    return loaded.problems


def require_all(path: str | os.PathLike[str], loaded: Loaded) -> None:
    """Raises ValueError with what is wrong with every refused row, if there are any."""
    if len(loaded.refused) == 1:
        raise ValueError(str(loaded.refused[0]))
    if loaded.refused:
        lines = loaded.lines()
        more = [f"... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        count = (
            f"{len(loaded.refused)} of its {len(loaded.refused) + len(loaded.problems)} rows cannot be used"
        )
        usable = not loaded.own and bool(loaded.problems)
        hint = "; data prepare --from FILE --out FOLDER leaves them out, and says why" if usable else ""
        raise SeveralErrors([f"{path}: {count}{hint}:", *lines[:SHOWN], *more])


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
