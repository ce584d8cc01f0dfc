"""Where problems come from, by the names the command line gives them: ``nano``, ``leetcode``, or a file."""

from dataclasses import dataclass
from pathlib import Path

from reward import nano
from reward.problems.files import read_problems, require_all
from reward.problems.filters import Dropped
from reward.problems.leetcode import DATA_SET, load_leetcode
from reward.problems.schema import Problem


@dataclass(frozen=True)
class Source:
    """The problems of a source, what of it could not be read, and its name for the manifest."""

    name: str
    problems: list[Problem]
    dropped: list[Dropped]


def load_nano(split: nano.Split, count: int, seed: int) -> list[Problem]:
    """``count`` problems of the generator; "train" and "heldout" share no family."""
    return [Problem.from_row(row) for row in nano.generate(split, count, seed)]


def load_source(text: str, count: int, seed: int) -> Source:
    """Load ``nano`` (``count`` problems of its training families), ``leetcode[:SPLIT]`` or a problem file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is malformed, or the hub cannot be reached.
    """
    if text == "nano":
        return Source(f"nano, {count} drawn with seed {seed}", load_nano("train", count, seed), [])
    kind, _, split = text.partition(":")
    if kind == "leetcode":
        split = split or "train"
        loaded = load_leetcode(split=split)
        return Source(f"{DATA_SET}, split {split}", loaded.kept, loaded.dropped)
    return _load_file(Path(text))


def _load_file(path: Path) -> Source:
    """A file of the benchmark's form is whole or refused; of another form, what cannot be converted is dropped."""
    loaded = read_problems(path)
    if loaded.own or not loaded.problems:
        require_all(path, loaded)
    kind = "not converted"
    dropped = [
        Dropped(row.place if row.id is None else row.id, kind, f"{kind}: {row}") for row in loaded.refused
    ]
    return Source(path.name, loaded.problems, dropped)
