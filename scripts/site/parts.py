"""Which file holds which made part."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import arms
import config
import contract
import figures
import tables

ROOT = Path(__file__).resolve().parents[2]
_MARKED = re.compile(r"(<!-- begin: ([\w-]+) -->\n).*?(<!-- end -->)", re.S)

PARTS: dict[str, Callable[[], list[str]]] = {
    **tables.PARTS,
    "arms": arms.catalogue,
    "config": config.reference,
    "verl-contract": contract.names,
}


def filled(text: str) -> str:
    """The page with every marked part made anew.

    Raises:
        ValueError: a mark names no part.
    """

    def part(mark: re.Match[str]) -> str:
        if mark[2] not in PARTS:
            raise ValueError(f"<!-- begin: {mark[2]} --> names no part; there are {sorted(PARTS)}")
        return mark[1] + "\n".join(PARTS[mark[2]]()) + "\n" + mark[3]

    return _MARKED.sub(part, text)


def readme(text: str) -> str:
    """The README with the rows of its table as the data have them."""
    lines, new = text.splitlines(keepends=True), tables.readme_rows()
    start = lines.index(new[0] + "\n")
    end = next(i for i in range(start, len(lines)) if not lines[i].startswith("|"))
    return "".join([*lines[:start], *(line + "\n" for line in new), *lines[end:]])


def made() -> dict[Path, str]:
    """Text of every page and figure that has a made part, by path."""
    pages = {page: filled(page.read_text()) for page in sorted((ROOT / "docs").glob("*.md"))}
    drawn = {ROOT / "docs/img" / name: text for name, text in figures.drawn().items()}
    front = ROOT / "README.md"
    return {**pages, **drawn, front: readme(front.read_text())}
