"""Append evaluated runs to a CSV file of `docs/data`: `add_runs.py nano_main runs/nano/router/*`.

A row has what `eval/eval.json` says of the run's sides, and the commit that its provenance names.
Of a mix of loopholes it has the preset and OFF's rate of each as well.
A run that the file has already, by preset, arm, seed and commit, is left out.
A new file needs its header line first.
"""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

from tables import DATA, SIDES, rows

from evil_moe.report import load_run
from evil_moe.report.compare import unit_rates

RATES = ("loophole", "hack", "solve", "compile")


def row(folder: Path) -> dict[str, Any]:
    """The run's row.

    Raises:
        ValueError: it has not been evaluated, or parts of it were trained by different commits.
    """
    run = load_run(folder)
    if run.evaluation is None:
        raise ValueError(f"{folder} has no eval/eval.json: evil-moe eval {folder}")
    commits = {start["git"]["commit"][:7] for start in run.provenance["starts"]}
    if len(commits) != 1:
        raise ValueError(
            f"{folder} was trained by several commits ({', '.join(sorted(commits))}): train it anew"
        )
    found: dict[str, Any] = {
        "arm": run.arm,
        "seed": run.seed,
        "commit": commits.pop(),
        "answers": run.evaluation.samples,
    }
    for side in SIDES:
        rates = getattr(run.evaluation, side)
        found |= {f"{side}_{rate}": "" if rates is None else getattr(rates, rate) for rate in RATES}
    auroc = run.evaluation.auroc
    found |= {"auroc": "" if auroc is None else round(auroc, 6)}
    if not run.modes:
        return found
    of_modes = {mode: unit_rates([run], "off", "loophole", mode).values() for mode in run.modes}
    return (
        {"preset": run.preset}
        | found
        | {f"off_{mode}": round(fmean(of_modes[mode]), 6) for mode in run.modes}
    )


def _key(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(row.get(key, "")) for key in ("preset", "arm", "seed", "commit"))


def main(name: str, folders: list[str]) -> None:
    """Append the runs that the file does not have yet."""
    have = {_key(r) for r in rows(name)}
    new = [r for r in (row(Path(folder)) for folder in folders) if _key(r) not in have]
    with (DATA / f"{name}.csv").open("r+", newline="") as file:
        columns = next(csv.reader(file))
        file.seek(0, os.SEEK_END)
        csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n").writerows(new)
    print(f"{len(new)} runs added to docs/data/{name}.csv")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
