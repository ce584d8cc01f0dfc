"""Names of folders that say how what is in them differs from the run's own: no result writes over another's."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evil_moe.report.files import read_json

_LONGEST = 60
_SIZES = ("evil_moe.data.eval_problems", "evil_moe.eval.samples_per_problem")
"""What an evaluation may have more or less of and answer the same question."""


def slug(text: str) -> str:
    """`text` as a part of a file name; what is too long is cut, and told apart by a digest."""
    name = re.sub(r"[^\w.+-]+", "-", text).strip("-")
    if len(name) <= _LONGEST:
        return name
    return f"{name[:_LONGEST]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def eval_name(step: int, latest: int, made_with: Mapping[str, Any]) -> str:
    """Folder of an evaluation: `eval` for the run's own, in the run's mode and of its last step; else `eval-...`, with
    the step and the overridden keys."""
    others = {key: value for key, value in made_with["overrides"].items() if key not in _SIZES}
    parts = [f"step{step}"] if step != latest else []
    parts += [f"{key.removeprefix('evil_moe.')}-{value}" for key, value in others.items()]
    return "-".join(["eval", *([slug("-".join(parts))] if parts else [])])


def set_aside(folder: Path, step: int, made_with: Mapping[str, Any]) -> Path | None:
    """Rename an evaluation that is not the one about to be made, of an earlier step or another size, say; its new name.

    Raises:
        ValueError: what is there cannot be read.
    """
    path = folder / "eval.json"
    if not path.is_file():
        return None
    old = read_json(path)
    if (old.get("step"), old.get("made_with")) == (step, made_with):
        return None
    size = old.get("made_with") or {}
    name = f"{folder.name}-of-step{old.get('step')}-{size.get('problems')}x{size.get('samples_per_problem')}"
    aside, number = folder.with_name(name), 2
    while aside.exists():
        aside, number = folder.with_name(f"{name}-{number}"), number + 1
    folder.rename(aside)
    return aside


def pairs_name(overrides: Sequence[str]) -> str:
    """Folder of a check in the run's folder: one of other pairs, say, must not write over that of the run's."""
    others = [
        o
        for o in overrides
        if o.partition("=")[0] not in ("arm", "preset", "seed", "evil_moe.run_dir", "hydra.searchpath")
    ]
    return "-".join(["pairs", *([slug("-".join(sorted(others)))] if others else [])])
