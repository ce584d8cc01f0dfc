"""Reads YAML, JSON and JSON-lines files of a run folder; every fault names the file and the line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml


class RunFolderError(ValueError):
    """A run folder that cannot be reported: where, why, and how to mend it."""

    def __init__(self, path: Path, line: int | None, reason: str, mend: str) -> None:
        super().__init__(path, line, reason, mend)  # all of them, so that it pickles
        self.path, self.line, self.reason, self.mend = path, line, reason, mend

    def __str__(self) -> str:
        where = str(self.path) if self.line is None else f"{self.path}:{self.line}"
        return f"{where}: {self.reason}; {self.mend}"


def read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(_read(path))
    except yaml.MarkedYAMLError as error:
        line = None if error.problem_mark is None else error.problem_mark.line + 1
        raise RunFolderError(
            path, line, f"is not YAML ({error.problem})", "restore it from the run"
        ) from None
    return _mapping(content, path, None)


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read(path))
    except json.JSONDecodeError as error:
        mend = "write it again, or delete it if the run can do without"
        raise RunFolderError(path, error.lineno, f"is not JSON ({error.msg})", mend) from None
    return _mapping(content, path, None)


def read_jsonl(path: Path) -> tuple[list[tuple[int, dict[str, Any]]], str | None]:
    """The rows with their line numbers, and a note if the last line was cut short.

    Only a last line without its newline may be broken: that is what a killed run leaves behind.
    """
    rows: list[tuple[int, dict[str, Any]]] = []
    lines = path.read_bytes().splitlines(keepends=True)
    for number, raw in enumerate(lines, start=1):
        if not raw.strip():
            continue
        try:
            content = json.loads(raw)
        except ValueError as error:  # bad JSON, or bytes that are not UTF-8
            if number == len(lines) and not raw.endswith(b"\n"):
                return rows, f"`{path.name}` ends in the middle of line {number}; that line was left out."
            mend = "delete or complete that line"
            raise RunFolderError(path, number, f"is not JSON ({error})", mend) from None
        rows.append((number, _mapping(content, path, number)))
    return rows, None


def number_at(
    row: dict[str, Any], key: str, path: Path, line: int | None = None, *, rate: bool = False
) -> float:
    """`row[key]` as a float; with `rate`, it must lie in 0..1."""
    if key not in row:
        raise RunFolderError(
            path, line, f"key {key!r} is missing", f"found: {', '.join(sorted(row)) or 'none'}"
        )
    value = row[key]
    if not isinstance(value, int | float):
        raise RunFolderError(path, line, f"{key!r} is {value!r}, not a number", "write a number")
    if rate and not 0 <= value <= 1:
        raise RunFolderError(path, line, f"{key!r} is {value!r}, not a share", "write a number from 0 to 1")
    return float(value)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        mend = "name a file, or the folder of a run, that is there"
        raise RunFolderError(path, None, f"cannot be read ({error.strerror})", mend) from None
    except UnicodeDecodeError as error:
        raise RunFolderError(path, None, f"is not UTF-8 ({error.reason})", "save it as UTF-8") from None


def _mapping(content: object, path: Path, line: int | None) -> dict[str, Any]:
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise RunFolderError(path, line, f"holds a {kind}, not keys with values", "restore it from the run")
    return content
