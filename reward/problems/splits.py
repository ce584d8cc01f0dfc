"""Splits by a hash of the problem's id, and the folder they are written to with a manifest.

The split of a problem depends on its id, the fractions and the seed alone, so adding or dropping problems moves no
other problem from one split to another.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reward.problems.files import checksum, write_problems
from reward.problems.filters import Dropped
from reward.problems.schema import Problem

SPLITS = ("train", "validation", "heldout")
MANIFEST = "manifest.json"
DROPPED = "dropped.jsonl"


def split_of(problem_id: int | str, fractions: Sequence[float], seed: int) -> str:
    """The split of an id; ``fractions`` are those of SPLITS, in order. A number and its text are the same id."""
    place = int.from_bytes(hashlib.sha256(f"{seed}:{problem_id}".encode()).digest()[:8], "big") / 2**64
    for name, fraction in zip(SPLITS, fractions, strict=True):
        place -= fraction
        if place < 0:
            return name
    return next(
        name for name, fraction in zip(SPLITS, fractions, strict=True) if fraction
    )  # rounding of the sum


def split_problems(
    problems: Iterable[Problem], fractions: Sequence[float], seed: int
) -> dict[str, list[Problem]]:
    """The problems by split, each in their order.

    Raises ValueError unless there are three fractions, none negative, that sum to 1.
    """
    if len(fractions) != len(SPLITS) or any(f < 0 for f in fractions) or abs(sum(fractions) - 1) > 1e-9:
        raise ValueError(
            f"fractions {list(fractions)}: give {len(SPLITS)} that sum to 1, for {', '.join(SPLITS)}, e.g. 0.9 0.05 0.05"
        )
    splits: dict[str, list[Problem]] = {name: [] for name in SPLITS}
    for problem in problems:
        splits[split_of(problem.id, fractions, seed)].append(problem)
    return splits


def write_splits(
    folder: Path, splits: Mapping[str, list[Problem]], dropped: Sequence[Dropped], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Write ``<split>.jsonl.gz`` for every split that is not empty, ``dropped.jsonl`` and the manifest; the folder
    appears whole or not at all. ``about``: how the problems were made, copied into the manifest, which is returned.

    Raises ValueError if the folder is there already.
    """
    if folder.exists():
        raise ValueError(f"{folder}: is there already; remove it or choose another name")
    folder.parent.mkdir(parents=True, exist_ok=True)
    manifest = {
        **about,
        "dropped": dict(sorted(Counter(item.kind for item in dropped).items())),
        "splits": {
            name: {"file": f"{name}.jsonl.gz", "problems": len(problems), "sha256": checksum(problems)}
            for name, problems in splits.items()
            if problems
        },
    }
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    scratch.mkdir()
    try:
        for name, entry in manifest["splits"].items():
            write_problems(scratch / entry["file"], splits[name])
        (scratch / DROPPED).write_text("".join(json.dumps(asdict(item)) + "\n" for item in dropped))
        (scratch / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        scratch.rename(folder)
    except BaseException:
        shutil.rmtree(scratch)
        raise
    return manifest


def check_manifest(path: Path, problems: Iterable[Problem]) -> str | None:
    """Compare a loaded file with the manifest beside it: what the manifest says of it, None if there is none.

    Raises ValueError if the problems are not the ones that were written.
    """
    manifest = path.parent / MANIFEST
    if not manifest.is_file():
        return None
    entries = json.loads(manifest.read_text())["splits"]
    entry = next((entry for entry in entries.values() if entry["file"] == path.name), None)
    if entry is None:
        return None
    if (found := checksum(problems)) != entry["sha256"]:
        raise ValueError(
            f"{path}: has checksum {found[:16]}, its manifest says {entry['sha256'][:16]}; "
            "the file was changed after it was prepared, so prepare it again"
        )
    return str(entry["sha256"])
