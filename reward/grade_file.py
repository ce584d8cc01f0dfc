"""A response file in, a verdict file out: checked before anything is graded, written whole or not at all, resumable.

Rows go to ``.<out>.partial`` beside the output as they are graded. Its first line is a checksum of all that decides
the rows (inputs, mode, options, limits, this package's source), so a second start with the same inputs goes on where the first
ended and any other start begins anew.
"""

import fcntl
import gzip
import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from reward.batch import LIMITS, OPTIONS, GradeOptions, check_setups, grade_rows, read_responses
from reward.jsonl import require_suffix
from reward.problems import load_problems
from reward.sandbox import SandboxLimits

_PACKAGE = Path(__file__).parent
_WHAT = "verdict file"


@dataclass(frozen=True)
class Progress:
    """Rows finished, rows in all, rows that ended in a fault, and rows taken over from an interrupted start."""

    done: int
    total: int
    faults: int
    resumed: int


def grade_file(
    problems_path: Path,
    responses_path: Path,
    out: Path,
    mode: str = "none",
    workers: int = 1,
    limits: SandboxLimits = LIMITS,
    options: GradeOptions = OPTIONS,
    progress: Callable[[Progress], None] | None = None,
) -> Progress:
    """Grade every row of ``responses_path`` into ``out``; the final progress.

    Raises:
        FileNotFoundError: an input, or the folder of ``out``, is not there.
        ValueError: a malformed input (file, line, field, mend), before anything is graded; or ``out`` is being
            written by another process.
        SandboxFault: the sandbox cannot run anything, found out before the first row.
    """
    require_suffix(out, _WHAT)
    for path in (problems_path, responses_path):
        if out.resolve() == path.resolve():
            raise ValueError(f"{out}: is also an input; choose another name for the verdicts")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out}: there is no folder {out.parent}; make it first")
    problems = {problem.id: problem for problem in load_problems(problems_path)}
    used: dict[int | str, None] = {}
    total = 0
    for row in read_responses(responses_path, problems, mode):
        used[row.problem.id] = None
        total += 1
    check_setups([problems[name] for name in used], limits)
    key = _key(problems_path, responses_path, mode, limits, options)
    partial = out.with_name(f".{out.name}.partial")
    with _opened(partial, out) as file:
        resumed, faults = _take_over(file, key)
        at = Progress(resumed, total, faults, resumed)
        rows = itertools.islice(read_responses(responses_path, problems, mode), resumed, None)
        for verdict in grade_rows(rows, workers, limits, options):
            file.write(json.dumps(verdict).encode() + b"\n")
            file.flush()
            at = Progress(at.done + 1, total, at.faults + (verdict["fault"] is not None), resumed)
            if progress:
                progress(at)
        if at.done != total:
            raise ValueError(
                f"{responses_path}: had {total} rows and now has {at.done}; it was changed while it was graded, "
                "so start again"
            )
        _finish(file, partial, out)
    return at


def _key(
    problems_path: Path, responses_path: Path, mode: str, limits: SandboxLimits, options: GradeOptions
) -> bytes:
    digest = hashlib.sha256(json.dumps([mode, asdict(limits), asdict(options)]).encode())
    for path in (problems_path, responses_path, *sorted(_PACKAGE.rglob("*.py"))):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest().encode()


@contextmanager
def _opened(partial: Path, out: Path) -> Iterator[IO[bytes]]:
    """The partial file, held by one process at a time."""
    with partial.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"{out}: another process is writing it; wait for it, or choose another name"
            ) from error
        yield file


def _take_over(file: IO[bytes], key: bytes) -> tuple[int, int]:
    """Keep the whole rows of an interrupted start with the same key: (rows, faults among them)."""
    file.seek(0)
    rows = faults = 0
    end = 0
    if file.readline() == key + b"\n":
        end = file.tell()
        for line in file:
            if not line.endswith(b"\n"):
                break  # the row that was being written
            end += len(line)
            rows += 1
            faults += json.loads(line)["fault"] is not None
    file.truncate(end)
    file.seek(end)
    if not end:
        file.write(key + b"\n")
    return rows, faults


def _finish(file: IO[bytes], partial: Path, out: Path) -> None:
    """The rows without the key to ``out``, in one step."""
    whole = out.with_name(f".{out.name}.whole")
    file.seek(0)
    file.readline()
    with whole.open("wb") as plain:
        if out.name.endswith(".gz"):
            with gzip.GzipFile(filename="", mode="wb", fileobj=plain, mtime=0) as packed:
                shutil.copyfileobj(file, packed)
        else:
            shutil.copyfileobj(file, plain)
    whole.replace(out)
    partial.unlink()
