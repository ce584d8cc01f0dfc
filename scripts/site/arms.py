"""The catalogue of arms, from the files in `configs/arm`: what each is, what it starts from, what it sets.

The stop and the source of a method are those of the first table of `docs/methods.md`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from evil_moe.report.markdown import table

ROOT = Path(__file__).resolve().parents[2]
ARMS, METHODS = ROOT / "configs/arm", ROOT / "docs/methods.md"


def catalogue() -> list[str]:
    """A row for each arm."""
    known = methods()
    body = [
        [*row(path)[:2], *known.get(path.stem, ("", "")), *row(path)[2:]]
        for path in sorted(ARMS.glob("*.yaml"))
    ]
    return ["", *table(["arm", "starts from", "stop", "from", "what it is", "sets"], body), ""]


def methods() -> dict[str, tuple[str, str]]:
    """Stop and source of each arm that the table of methods names."""
    found = {}
    for line in METHODS.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if line.startswith("|") and len(cells) == 4:
            found |= dict.fromkeys(re.findall(r"`(\w+)`", cells[1]), (cells[0], cells[3]))
    return found


def row(path: Path) -> list[str]:
    """The file's own words, its base, and the keys that it sets: those of `evil_moe` without that name."""
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    base = [name for name in content.pop("defaults", []) if name != "_self_"]
    own = content.pop("evil_moe")
    own.pop("arm")
    sets = [f"`{key}: {value}`" for key, value in (*flat(own), *flat(content))]
    return [
        f"`{path.stem}`",
        ", ".join(f"`{name}`" for name in base),
        what(path.read_text()),
        "<br>".join(sets),
    ]


def what(text: str) -> str:
    """The comment below Hydra's first line, up to the first command in it, which is indented by three."""
    lines = []
    for line in text.splitlines()[1:]:
        if not line.startswith("#") or line.startswith("#   "):
            break
        lines.append(line.removeprefix("# "))
    return " ".join(lines)


def flat(node: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """`a.b` and the value as YAML has it, of every leaf."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from flat(value, f"{above}{key}.")
        else:
            yield (
                f"{above}{key}",
                yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip(),
            )
