"""The table of what is overridden of verl and vLLM, from `docs/data/verl_contract.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from evil_moe.report.markdown import table

RECORD = Path(__file__).resolve().parents[2] / "docs/data/verl_contract.yaml"


def names() -> list[str]:
    """A section for each class of theirs, then the names that are called or replaced."""
    record: dict[str, Any] = yaml.safe_load(RECORD.read_text())
    lines = ["", "## Overridden", ""]
    for owner in record["overrides"]:
        package, _, name = owner["class"].rpartition(".")
        lines += [f"### {name}", "", f"`{package}`", ""]
        if why := owner.get("why"):
            lines += [why, ""]
        rows = [
            [f"`{key}`", f"`{entry['signature']}`", entry.get("why", "")]
            for key, entry in owner["names"].items()
        ]
        head = ["name", "signature"] if why else ["name", "signature", "why"]
        lines += [*table(head, [row[: len(head)] for row in rows]), ""]
    uses = [[f"`{entry['name']}`", f"`{entry['signature']}`", entry["why"]] for entry in record["uses"]]
    return [*lines, "## Called or replaced", "", *table(["name", "signature", "why"], uses), ""]
