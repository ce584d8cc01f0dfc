"""Write the CSV files of `docs/data` that are of no run's end, from what the commands left in their JSON files.

    add_measures.py looks CHECK.json ...      the tables of eyes that `evil-moe pairs check` wrote
    add_measures.py strengths EVAL.json       the curve that `evil-moe eval RUN strengths=[...]` wrote

The file is written anew: `nano_long_looks.csv` or `nano_long_strengths.csv`.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

from tables import DATA

EYES = ("mean, completion", "window 8, completion", "window 8, hack_only")
LOOPHOLES = ("run_tests", "stdout_marker", "exit_code")
RATES = ("loophole", "hack", "solve", "compile")


def looks(check: dict[str, Any]) -> list[dict[str, str]]:
    """Rows of one `check.json`: AUROC of the three loopholes, as seeded and as the pin leaves the direction."""
    given = dict(override.split("=", 1) for override in check["overrides"])
    return [
        {
            "preset": given["preset"],
            "seed": given["seed"],
            "eye": row["eye"],
            "as_seeded": _three(row["auroc"]),
            "after_the_pin": _three(row["pinned"]),
        }
        for row in check["eyes"]["rows"]
        if row["eye"] in EYES
    ]


def strengths(evaluation: dict[str, Any]) -> list[dict[str, str]]:
    """Rows of one `eval.json`: rates of each strength of the quarantine."""
    return [
        {"strength": f"{row['strength']:g}"} | {rate: f"{row[rate]:.3f}" for rate in RATES}
        for row in evaluation["strengths"]
    ]


def _three(auroc: dict[str, float]) -> str:
    return " ".join(f"{auroc[name]:.3f}" for name in LOOPHOLES)


def main(kind: str, files: list[str]) -> None:
    """Write the file of `kind`, in the order of `files`."""
    read = {"looks": looks, "strengths": strengths}[kind]
    rows = [row for file in files for row in read(json.loads(Path(file).read_text()))]
    with (DATA / f"nano_long_{kind}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("looks", "strengths"):
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
