"""Problems: the public benchmark's JSONL schema, reading, writing, checksums."""

import ast
import functools
import gzip
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypedDict

from reward.checks import parse_checks, root_name


class Message(TypedDict):
    """A chat message as chat templates take it."""

    role: str
    content: str


@dataclass(frozen=True)
class Problem:
    """One row of a problem file. Fields as in the benchmark; unknown ones are kept in ``extra``.

    id: unique in its file. prompt: chat messages. func_name: the callable under test, e.g. "Solution().foo".
    setup_code: executed before the response. gt_answer: assert statements. canonical_solution: a correct
    program, or None. prompt_metadata: holds "starter_code". The rest is carried along and not used by the
    grader.
    """

    id: int | str
    prompt: list[Message]
    question: str
    func_name: str
    setup_code: str
    gt_answer: tuple[str, ...]
    canonical_solution: str | None = None
    prompt_metadata: dict[str, Any] = field(default_factory=dict)
    difficulty: str | None = None
    dataset: str | None = None
    evaluator: str | None = None
    answer: tuple[str, ...] | None = None
    hint: str | None = None
    completion_gt_pass: bool | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def starter_code(self) -> str:
        """The code that the prompt asks to complete, "" if the row has none."""
        return str(self.prompt_metadata.get("starter_code", ""))

    @classmethod
    def from_row(cls, row: object, where: str = "row") -> "Problem":
        """Check a row. Raises ValueError naming ``where``, the field, the reason and how to mend it."""
        if not isinstance(row, dict):
            raise ValueError(
                f"{where}: is a JSON {type(row).__name__}, not an object; write one object per line"
            )
        values: dict[str, Any] = {}
        for name, (types, required) in _SCHEMA.items():
            if name not in row:
                if required:
                    raise ValueError(f"{where}: field {name!r} is missing; add it ({_names(types)})")
                continue
            value = row[name]
            # bool is an int to isinstance; no field takes both
            if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
                raise ValueError(
                    f"{where}: field {name!r} is {type(value).__name__} {str(value)[:60]!r}; "
                    f"it must be {_names(types)}"
                )
            values[name] = value
        for index, message in enumerate(values["prompt"]):
            if not isinstance(message, dict) or not all(
                isinstance(message.get(k), str) for k in ("role", "content")
            ):
                raise ValueError(
                    f"{where}: field 'prompt', message {index}: must be an object "
                    "with the texts 'role' and 'content'"
                )
        for name in ("prompt", "gt_answer"):
            if not values[name]:
                raise ValueError(f"{where}: field {name!r} is empty; it needs at least one entry")
        for name in ("gt_answer", "answer"):
            if values.get(name) is not None:
                if not all(isinstance(item, str) for item in values[name]):
                    raise ValueError(
                        f"{where}: field {name!r} holds something that is not a text; write asserts"
                    )
                values[name] = tuple(values[name])
        try:
            root_name(values["func_name"])
        except ValueError as error:
            raise ValueError(f"{where}: field 'func_name': {error}") from error
        try:
            parse_checks(values["gt_answer"], values["func_name"])
        except ValueError as error:
            raise ValueError(f"{where}: field 'gt_answer': {error}") from error
        if (reason := _syntax_error(values["setup_code"])) is not None:
            raise ValueError(f"{where}: field 'setup_code' is not Python ({reason}); mend or empty it")
        return cls(**values, extra={key: value for key, value in row.items() if key not in _SCHEMA})

    def to_row(self) -> dict[str, Any]:
        """The row, with optional fields that were absent written out as null; ``from_row`` takes it back."""
        row: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name != "extra":
                row[item.name] = list(value) if isinstance(value, tuple) else value
        return {**row, **self.extra}


_NONE = type(None)
_SCHEMA: dict[str, tuple[tuple[type, ...], bool]] = {  # field -> (types, required)
    "id": ((int, str), True),
    "prompt": ((list,), True),
    "question": ((str,), True),
    "func_name": ((str,), True),
    "setup_code": ((str,), True),
    "gt_answer": ((list,), True),
    "canonical_solution": ((str, _NONE), False),
    "prompt_metadata": ((dict,), False),
    "difficulty": ((str, _NONE), False),
    "dataset": ((str, _NONE), False),
    "evaluator": ((str, _NONE), False),
    "answer": ((list, _NONE), False),
    "hint": ((str, _NONE), False),
    "completion_gt_pass": ((bool, _NONE), False),
}


def _names(types: tuple[type, ...]) -> str:
    return " or ".join("null" if kind is _NONE else kind.__name__ for kind in types)


@functools.lru_cache(maxsize=256)
def _syntax_error(source: str) -> str | None:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return str(error)
    return None


def load_problems(path: str | os.PathLike[str]) -> list[Problem]:
    """Read a .jsonl or .jsonl.gz file; blank lines are skipped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: anything malformed, with file, line and field.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such problem file; give the path of a .jsonl or .jsonl.gz file")
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise ValueError(f"{path}: problem files end in .jsonl or .jsonl.gz; rename or convert it")
    problems: list[Problem] = []
    line_of: dict[int | str, int] = {}
    for number, line in _lines(path):
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: not JSON ({error}); each line must be one JSON object") from error
        problem = Problem.from_row(row, where)
        if problem.id in line_of:
            raise ValueError(
                f"{where}: field 'id' {problem.id!r} is already used on line {line_of[problem.id]}; "
                "make ids unique"
            )
        line_of[problem.id] = number
        problems.append(problem)
    if not problems:
        raise ValueError(f"{path}: holds no problems; write one JSON object per line")
    return problems


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
    except (EOFError, gzip.zlib.error, gzip.BadGzipFile) as error:  # type: ignore[attr-defined]
        raise ValueError(
            f"{path}:{number + 1}: damaged gzip data ({error}); write or fetch it again"
        ) from error


def write_problems(path: str | os.PathLike[str], problems: Iterable[Problem]) -> None:
    """Write a .jsonl or .jsonl.gz file, whole or not at all; the same problems give the same bytes.

    Raises ValueError for a name that ``load_problems`` would refuse.
    """
    path = Path(path)
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise ValueError(f"{path}: problem files end in .jsonl or .jsonl.gz; choose such a name")
    data = "".join(json.dumps(problem.to_row()) + "\n" for problem in problems).encode()
    if path.name.endswith(".gz"):
        data = gzip.compress(data, mtime=0)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def checksum(problems: Iterable[Problem]) -> str:
    """sha256 over the rows in order, with sorted keys; independent of file format."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(json.dumps(problem.to_row(), sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
