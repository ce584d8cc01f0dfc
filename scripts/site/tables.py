"""Tables of results, made from the CSV files in `docs/data`, each with what made its numbers.

`docs/data/tables.yaml` says of each file command, machine and seeds. The commit stands in the rows, or there.
Rates are shares of held-out answers. A spread is the standard deviation between seeds (n - 1).
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from evil_moe.report.markdown import table

DATA = Path(__file__).resolve().parents[2] / "docs/data"
SIDES = {"on": "ON", "off": "OFF", "random_block": "random block", "base": "before RL"}
README_ARMS = {
    "router": "**router** (this method)",
    "frozen": "frozen: its direction does not learn",
    "random_matched": "random direction, same share routed",
    "absorb_whole": "no routing, same block thrown away",
}
Row = dict[str, str]


def rows(name: str) -> list[Row]:
    """Rows of `docs/data/<name>.csv`."""
    with (DATA / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def source(name: str) -> list[str]:
    """What made the numbers of a file, as lines below its table."""
    about = yaml.safe_load((DATA / "tables.yaml").read_text())[name]
    found = (
        sorted({row["commit"] for row in rows(name) if row.get("commit")}) if "commit" not in about else []
    )
    commit = about.get("commit") or ", ".join(found)
    told = {
        "Machine": about["machine"],
        "Seeds": about["seeds"],
        "Commit": commit,
        "File": f"`docs/data/{name}.csv`",
    }
    lines = [f"- {key}: {value}" for key, value in told.items() if value]
    return ["", *(f"    {command}" for command in about["commands"]), "", *lines]


def label(key: str) -> str:
    """Heading of a column: `off_random_block` and so on in words."""
    for side, shown in SIDES.items():
        if key.startswith(f"{side}_"):
            return f"{shown} {key.removeprefix(side + '_').replace('run tests', 'run_tests')}"
    return {"auroc": "AUROC", "gate_deployed": "`gate_deployed`"}.get(key, key.replace("_", " "))


def mean(values: Sequence[float]) -> str:
    """Mean and, of several, standard deviation between them."""
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{spread}"


def by_arm(name: str, columns: Sequence[str]) -> list[list[str]]:
    """A row for each arm in the file's order: arm, number of seeds, and each column over the seeds."""
    runs: dict[str, list[Row]] = {}
    for row in rows(name):
        runs.setdefault(row["arm"], []).append(row)
    return [
        [arm, str(len(found)), *(mean([float(row[key]) for row in found]) for key in columns)]
        for arm, found in runs.items()
    ]


def before_rl(name: str, columns: Sequence[str]) -> list[str]:
    """The policy before RL, once a seed, under the OFF columns; nothing elsewhere."""
    seeds = {row["seed"]: row for row in rows(name)}
    cells = [
        mean([float(row[key.replace("off_", "base_")]) for row in seeds.values()])
        if key.startswith("off_")
        else ""
        for key in columns
    ]
    return ["*before RL*", str(len(seeds)), *cells]


MAIN = ("on_loophole", "on_hack", "on_solve", "off_loophole", "off_hack", "off_solve", "off_compile", "auroc")


def main() -> list[str]:
    """The main arms over seeds; behind them the older ones, of which only mean and spread are on record."""
    older = [
        [
            f"{row['arm']} (older)",
            str(len(row["seeds"].split())),
            *(f"{row[k]} ± {row[k + '_sd']}" for k in MAIN),
        ]
        for row in rows("nano_main_older")
    ]
    body = [*by_arm("nano_main", MAIN), *older, before_rl("nano_main", MAIN)]
    head = ["arm", "seeds", *(label(key) for key in MAIN)]
    return ["", *table(head, body), *source("nano_main"), "", "The older rows:", *source("nano_main_older")]


def by_run(name: str, keys: Sequence[str], first: Sequence[str] = ("arm", "seed")) -> list[str]:
    """A row for each run of a file."""
    body = [[*(row[key] for key in first), *(f"{float(row[key]):.3f}" for key in keys)] for row in rows(name)]
    return ["", *table([*first, *(label(key) for key in keys)], body), *source(name)]


BY_RUN = (
    "on_loophole",
    "on_solve",
    "off_loophole",
    "off_solve",
    "random_block_loophole",
    "base_loophole",
    "base_solve",
)
OF_MIX = (
    "on_loophole",
    "off_loophole",
    "off_run_tests",
    "off_stdout_marker",
    "off_exit_code",
    "off_solve",
    "off_compile",
    "random_block_loophole",
    "base_loophole",
    "base_solve",
)


def demo() -> list[str]:
    """What `make demo` ends in: four sides of one run."""
    (run,) = (row for row in rows("nano_main") if (row["arm"], row["seed"]) == ("router", "0"))
    rates = ("loophole", "hack", "solve", "compile")
    sides = {"on": "ON", "off": "OFF", "random_block": "RANDOM BLOCK", "base": "BASE"}
    body = [
        [shown, *(f"{float(run[f'{side}_{rate}']):.3f}" for rate in rates)] for side, shown in sides.items()
    ]
    return ["", *table(["quarantine", *rates], body), ""]


def readme_rows() -> list[str]:
    """The README's table, without what made it: the results page says that."""
    keys = ("on_loophole", "off_loophole", "on_solve", "off_solve")
    found = {cells[0]: cells[2:] for cells in by_arm("nano_main", keys)}
    body = [[shown, *found[arm]] for arm, shown in README_ARMS.items()]
    body.append(["the policy before RL", *before_rl("nano_main", keys)[2:]])
    return table(["arm", *(label(key) for key in keys)], body)


def plain(name: str, headings: dict[str, str] | None = None) -> list[str]:
    """A file as it stands, a column for a column; `headings` renames columns, and "" leaves one out."""
    headings = headings or {}
    found = rows(name)
    keys = [key for key in found[0] if headings.get(key) != ""]
    head = [headings.get(key, label(key)) for key in keys]
    return ["", *table(head, [[row[key] for key in keys] for row in found]), *source(name)]


PARTS: dict[str, Callable[[], list[str]]] = {
    "main": main,
    "by-seed": lambda: by_run("nano_main", BY_RUN),
    "windows-on-nano": lambda: by_run("nano_windows", BY_RUN),
    "nano-long-strengths": lambda: plain("nano_long_strengths"),
    "nano-long-looks": lambda: plain("nano_long_looks"),
    "nano-long-pairs": lambda: by_run("nano_long_pairs", OF_MIX, ("preset", "arm", "seed")),
    "demo": demo,
    "demo-times": lambda: plain(
        "demo_times", {"demo_min_s": "`make demo`, min:s", "s_per_step": "s a training step"}
    ),
    "arms-on-nano": lambda: plain("nano_arms"),
    "features": lambda: plain("nano_features"),
    "nano-long": lambda: plain("nano_long"),
    "nano-long-kept-share": lambda: plain("nano_long_kept_share"),
    "nano-long-eyes": lambda: plain("nano_long_eyes"),
}
