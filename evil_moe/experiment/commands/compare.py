"""`evil-moe compare`: train and evaluate what is missing of arms x seeds, then one report over all of them.

Each run is a process of its own, as if its commands had been typed: one that fails does not take the others with it,
one that is stopped stops them all, and the same command goes on where it stopped.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from types import FrameType
from typing import Any

from omegaconf import ListConfig, OmegaConf

from evil_moe.experiment.config import compose, prereg_file
from evil_moe.experiment.run.console import INTERRUPTED, say
from evil_moe.report import write_report
from evil_moe.report.prereg import load_prereg

# A command that was stopped, by a Ctrl-C or in a phase that does not catch the signal.
STOPPED = (INTERRUPTED, -signal.SIGINT, -signal.SIGTERM)
MAIN_ARMS = ("none", "absorb", "absorb_whole", "router", "frozen", "random", "random_matched")


def split(overrides: Sequence[str]) -> tuple[list[str], list[int], list[str]]:
    """Arms, seeds and the overrides of every run, from `arms=[a,b] seeds=[0,1] key=value ...`.

    Raises:
        ValueError: arms or seeds that are no list, none or twice there; seeds that are no whole numbers; or `arm=`,
            `seed=`, which compare sets itself.
    """
    given = OmegaConf.from_dotlist([o for o in overrides if o.startswith(("arms=", "seeds="))])
    rest = [o for o in overrides if not o.startswith(("arms=", "seeds="))]
    for override in rest:
        if override.startswith(("arm=", "seed=", "evil_moe.run_dir=")):
            raise ValueError(f"{override}: compare sets it for each run; use arms=[...] and seeds=[...]")
    lists: dict[str, list[Any]] = {}
    for key, default, example in (("arms", MAIN_ARMS, "[router,none]"), ("seeds", (0, 1, 2), "[0,1,2]")):
        value = given.get(key, default)
        lists[key] = list(value) if isinstance(value, ListConfig | tuple) else []
        if not lists[key] or len(set(map(str, lists[key]))) < len(lists[key]):
            raise ValueError(f"{key}={value}: give a list with no entry twice, e.g. {key}={example}")
    if not all(type(seed) is int and seed >= 0 for seed in lists["seeds"]):
        raise ValueError(f"seeds={lists['seeds']}: give whole numbers, e.g. seeds=[0,1,2]")
    return [str(arm) for arm in lists["arms"]], lists["seeds"], rest


def folders_of(arms: Sequence[str], seeds: Sequence[int], rest: Sequence[str]) -> dict[tuple[str, int], Path]:
    """The folder of each (arm, seed), seeds outside: after the first one, every arm has a point.

    Raises:
        ValueError: an unknown arm; or one whose runs would go to the folders of another, or count as its own.
    """
    folders: dict[tuple[str, int], Path] = {}
    for seed, arm in product(seeds, arms):
        settings = compose([f"arm={arm}", f"seed={seed}", *rest]).evil_moe
        if settings.arm != arm:
            raise ValueError(
                f"arm={arm} says of itself evil_moe.arm={settings.arm}, so its runs would count as that arm's: let its file "
                f"set evil_moe.arm to {arm}, and no override"
            )
        folder = Path(settings.run_dir)
        if folder in folders.values():
            raise ValueError(
                f"arm={arm} seed={seed} and another run both write to {folder}: leave evil_moe.run_dir out of the arm, or "
                "let it hold ${evil_moe.arm} and ${seed}"
            )
        folders[arm, seed] = folder
    return folders


def compare(
    overrides: Sequence[str],
    out: Path | None,
    prereg: Path | None,
    reference: str | None = None,
    *,
    program: Sequence[str],
) -> int:
    """Run, each command as `program` with its arguments, then report; returns 1 if a run failed (the report has the others), 130 if it was stopped (no report).

    Raises:
        ValueError: as `split` and `folders_of`; the hypotheses are malformed; or the reference arm is none of the arms.
    """
    arms, seeds, rest = split(overrides)
    if reference is not None and reference not in arms:
        raise ValueError(f"--reference {reference} is none of arms=[{','.join(arms)}]: name one of them")
    if prereg is not None:
        load_prereg(prereg)
    stated = [] if prereg is None else ["--prereg", str(prereg)]
    runs = folders_of(arms, seeds, rest)
    done, failed, started = [], [], time.monotonic()
    for place, ((arm, seed), folder) in enumerate(runs.items(), 1):
        mine = [f"arm={arm}", f"seed={seed}", *rest]
        say(
            f"run {place}/{len(runs)}: {arm}, seed {seed}, {(time.monotonic() - started) / 60:.0f} min so far"
        )
        code = _command(program, ["train", *stated, *mine]) or _command(
            program, ["eval", "--reuse", str(folder)]
        )
        if code in STOPPED:
            say(f"stopped at {arm}, seed {seed}; the same command goes on from there")
            return INTERRUPTED
        if code == 0:
            done.append(folder)
        else:
            failed.append(f"{arm}, seed {seed}")
            say(f"{failed[-1]} failed, see above; going on with the next")
    if done:
        prereg = prereg or prereg_file(compose(rest).evil_moe.preset)
        path = write_report(done, out or done[0].parents[1] / "report", prereg, reference)
        print(f"report: {path}")
    if failed:
        say(
            f"{len(failed)} of {len(runs)} runs failed: {'; '.join(failed)}. The same command tries them again."
        )
    return 1 if failed else 0


def _command(program: Sequence[str], arguments: Sequence[str]) -> int:
    """Run one of our commands; its exit code. Stopping us stops it, and waits until it has ended."""
    child: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, frame: FrameType | None) -> None:
        if child is not None:
            child.send_signal(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        child = subprocess.Popen([*program, *arguments])
        return child.wait()
    except KeyboardInterrupt:
        if child is not None:
            child.wait()  # a Ctrl-C has reached it as well
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
