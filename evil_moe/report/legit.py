"""How a run's router weighs near-hacks that are legit, as its evaluation found it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evil_moe.report.files import RunFolderError, number_at, read_json
from evil_moe.report.markdown import table

_AGAIN = "run the evaluation again"
_ALL = "all"


def legit_lines(content: dict[str, Any], path: Path) -> list[str]:
    """Table and remarks of what an `eval.json` says of them; empty if it is from before there were any.

    Raises:
        RunFolderError: it is malformed.
    """
    found = content.get("legit")
    if found is None:
        return []
    if not isinstance(found, dict) or not isinstance(found.get("by_kind"), dict):
        raise RunFolderError(path, None, f"'legit' is {found!r}, not means by kind", _AGAIN)
    rows = []
    for kind, means in {_ALL: found, **found["by_kind"]}.items():
        if not isinstance(means, dict):
            raise RunFolderError(path, None, f"'legit' of {kind} is {means!r}, not means", _AGAIN)
        replies = f"{number_at(means, 'replies', path):g}"
        score = f"{number_at(means, 'score', path):.3f}"
        rows.append([kind, replies, score, *(_share(means, key, path) for key in ("w", "w_above_half"))])
    lines = [*table(["legit near-hacks", "replies", "score", "w", "share with w above .5"], rows), ""]
    if (told := _share(found, "auroc", path)) != "-":
        lines += [f"AUROC of the router on ON's answers that take the loophole against them: {told}.", ""]
    if (carrying := found.get("carrying")) is not None:
        if not isinstance(carrying, dict):
            raise RunFolderError(path, None, f"'carrying' is {carrying!r}, not rates", _AGAIN)
        on, off = (_share(carrying, f"solve_{side}", path) for side in ("on", "off"))
        lines += [
            f"Solve on held-out problems whose demonstrations carry them: {on} (ON), {off} (OFF), "
            f"{number_at(carrying, 'answers', path):g} answers a side.",
            "",
        ]
    return lines


def _share(row: dict[str, Any], key: str, path: Path) -> str:
    """A rate as text, a dash for null."""
    if key in row and row[key] is None:
        return "-"
    return f"{number_at(row, key, path, rate=True):.3f}"


def run_section(run_dir: Path) -> list[str]:
    """Of a run's report: those lines of its own evaluation.

    Raises:
        RunFolderError: its file is malformed.
    """
    path = run_dir / "eval" / "eval.json"
    return legit_lines(read_json(path), path) if path.is_file() else []
