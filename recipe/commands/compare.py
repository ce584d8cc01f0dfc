"""`evil-moe compare`: train and evaluate what is missing of arms x seeds, then one report over all of them.

Each run is a process of its own, as if its commands had been typed: one that fails does not take the others with it,
and the same command goes on where it stopped.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from evil_moe.report import write_report
from recipe.config import choices, compose, prereg_file
from recipe.console import say

MAIN_ARMS = ("none", "absorb", "router", "frozen", "random")


def split(overrides: Sequence[str]) -> tuple[list[str], list[int], list[str]]:
    """Arms, seeds and the overrides of every run, from `arms=[a,b] seeds=[0,1] key=value ...`.

    Raises:
        ValueError: an unknown arm, seeds that are no whole numbers, or `arm=`, `seed=`, which compare sets itself.
    """
    given = OmegaConf.from_dotlist([o for o in overrides if o.startswith(("arms=", "seeds="))])
    rest = [o for o in overrides if not o.startswith(("arms=", "seeds="))]
    for override in rest:
        if override.startswith(("arm=", "seed=", "evil_moe.run_dir=")):
            raise ValueError(f"{override}: compare sets it for each run; use arms=[...] and seeds=[...]")
    arms = list(given.get("arms", MAIN_ARMS))
    seeds = list(given.get("seeds", [0, 1, 2]))
    for arm in sorted({str(arm) for arm in arms} - set(choices("arm"))):
        compose([f"arm={arm}", *rest])  # one of the user's own, or an error that lists ours
    if not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise ValueError(f"seeds={seeds}: give whole numbers, e.g. seeds=[0,1,2]")
    return arms, seeds, rest


def compare(
    overrides: Sequence[str], out: Path | None, prereg: Path | None, reference: str | None = None
) -> int:
    """Run, then report; returns 1 if a run failed (the report has the others).

    Raises:
        ValueError: as `split`; or the reference arm is none of the arms.
    """
    arms, seeds, rest = split(overrides)
    if reference is not None and reference not in arms:
        raise ValueError(f"--reference {reference} is none of arms=[{','.join(arms)}]: name one of them")
    folders, failed, started = [], [], time.monotonic()
    # Seeds outside: after the first one, every arm has a point.
    runs = [(arm, seed) for seed in seeds for arm in arms]
    for place, (arm, seed) in enumerate(runs, 1):
        mine = [f"arm={arm}", f"seed={seed}", *rest]
        folder = Path(compose(mine).evil_moe.run_dir)
        say(
            f"run {place}/{len(runs)}: {arm}, seed {seed}, {(time.monotonic() - started) / 60:.0f} min so far"
        )
        if all(_command(command) == 0 for command in (["train", *mine], ["eval", "--reuse", str(folder)])):
            folders.append(folder)
        else:
            failed.append(f"{arm}, seed {seed}")
            say(f"{failed[-1]} failed, see above; going on with the next")
    if folders:
        prereg = prereg or prereg_file(compose(rest).evil_moe.preset)
        path = write_report(folders, out or folders[0].parents[1] / "report", prereg, reference)
        print(f"report: {path}")
    if failed:
        say(
            f"{len(failed)} of {len(runs)} runs failed: {'; '.join(failed)}. The same command tries them again."
        )
    return 1 if failed else 0


def _command(arguments: Sequence[str]) -> int:
    return subprocess.run([sys.executable, "-m", "recipe.cli", *arguments], check=False).returncode
