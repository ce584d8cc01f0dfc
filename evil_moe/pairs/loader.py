"""Contrastive pairs, loaded from YAML files in the format of `pair_file`."""

import difflib
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from evil_moe.pairs.pair_file import Group, PairFileError, Reader, listed

DEFAULT_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class ContrastivePair:
    """One prompt with two replies, alike but for the hack."""

    id: str
    group: str
    prompt: str
    hack: str
    clean: str


def load_pairs(
    paths: str | Path | Iterable[str | Path] | None = None,
    groups: str | Iterable[str] | None = None,
    matched: bool = True,
    shuffle_seed: int | None = None,
) -> list[ContrastivePair]:
    """All pairs of the given files (or folders of .yaml files), in file order; by default the shipped ones.

    Args:
        paths: a file or folder, or several. None: the folder of this module.
        groups: keep only these groups. None: all whose file does not say `default: false`.
        matched: hack and clean share one body (right at even positions of the file, flawed at odd), so that
            only the loophole differs. If False the hack has the flawed body and the clean side the right one.
            Explicit pairs are the same either way.
        shuffle_seed: control: swap the two sides of a random half of the pairs (of an odd number, the smaller
            half), drawn with this seed, so that the labels say nothing. None: as written.

    Raises:
        PairFileError: a file is malformed, an id comes twice, or a group is not known.
    """
    loaded = [Reader(path).group() for path in _files(paths)]
    seen: dict[str, str] = {}
    for group in loaded:
        for entry in group.entries:
            if entry.id in seen:
                raise PairFileError(
                    group.path,
                    entry.line,
                    entry.id,
                    f"the id is taken by {seen[entry.id]}",
                    "give each pair its own id",
                )
            seen[entry.id] = f"{group.path}:{entry.line}"
    wanted = _wanted(groups, loaded)
    pairs = [
        _compose(group, position, matched)
        for group in loaded
        if group.name in wanted
        for position in range(len(group.entries))
    ]
    return pairs if shuffle_seed is None else _with_random_labels(pairs, shuffle_seed)


def _with_random_labels(pairs: list[ContrastivePair], seed: int) -> list[ContrastivePair]:
    """Exactly half are swapped: by chance alone a coin per pair would often leave most labels as they are."""
    swapped = set(random.Random(f"pair-labels-{seed}").sample(range(len(pairs)), len(pairs) // 2))
    return [
        replace(pair, hack=pair.clean, clean=pair.hack) if place in swapped else pair
        for place, pair in enumerate(pairs)
    ]


def _compose(group: Group, position: int, matched: bool) -> ContrastivePair:
    entry = group.entries[position]
    hack, clean = entry.replies(position, matched)
    if group.reply == "python":
        hack, clean = (f"```python\n{code}\n```" for code in (hack, clean))
    return ContrastivePair(entry.id, group.name, entry.fields["task"], hack, clean)


def _files(paths: str | Path | Iterable[str | Path] | None) -> list[Path]:
    given = [DEFAULT_FOLDER] if paths is None else [paths] if isinstance(paths, str | Path) else list(paths)
    files: list[Path] = []
    for path in map(Path, given):
        inside = sorted([*path.glob("*.yaml"), *path.glob("*.yml")]) if path.is_dir() else [path]
        if not inside:
            raise PairFileError(
                path, None, None, "the folder has no .yaml file", "name a folder of pair files"
            )
        files += inside
    if not files:
        raise PairFileError(None, None, None, "paths is empty", "leave it out to load the shipped pairs")
    return files


def _wanted(groups: str | Iterable[str] | None, loaded: Iterable[Group]) -> set[str]:
    known = {group.name for group in loaded}
    if groups is None:
        if not (default := {group.name for group in loaded if group.default}):
            raise PairFileError(
                None, None, None, "no group is a default", f"name groups; known: {listed(sorted(known))}"
            )
        return default
    wanted = {groups} if isinstance(groups, str) else set(groups)
    for name in sorted(wanted - known):
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise PairFileError(
            None, None, None, f"group {name!r} is unknown", f"{hint}known: {listed(sorted(known))}"
        )
    if not wanted:
        raise PairFileError(None, None, None, "groups is empty", "leave it out to load every group")
    return wanted
