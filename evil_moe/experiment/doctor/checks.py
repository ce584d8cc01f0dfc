"""The checks of `evil-moe doctor`. Each looks and starts nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from omegaconf import DictConfig
from packaging.requirements import Requirement

from evil_moe.experiment.config_checks import check_config
from evil_moe.experiment.doctor.finding import FAIL, GB, OK, WARN, Finding
from evil_moe.experiment.run.environment import driver_environment
from evil_moe.experiment.run.folder import resume_step
from evil_moe.experiment.stack import Stack
from evil_moe.experiment.versions import installed_version

MIN_DISK_GB, GOOD_DISK_GB = 2.0, 8.0
CPU_RUN_RAM_GB = 7.0  # of one rank: trainer, engine, reward, agent and queue processes
MIN_RAM_GB = 3.5  # of one rank: with half of what its processes take, the kernel ends one of them


def check_python() -> Finding:
    version = platform.python_version()
    if (3, 11) <= sys.version_info[:2] <= (3, 12):
        return Finding("python", OK, version)
    return Finding(
        "python", FAIL, f"{version}, the pins are for 3.11 and 3.12", "make a new environment: make setup"
    )


def _attempt(name: str, said: str, mend: str, check: Callable[[], object]) -> Finding:
    """A check that raises as a finding."""
    try:
        check()
    except (ValueError, RuntimeError, ImportError, importlib.metadata.PackageNotFoundError) as error:
        return Finding(name, FAIL, str(error).splitlines()[0], mend)
    return Finding(name, OK, said)


def check_combinations(config: DictConfig, stack: Stack) -> Iterator[Finding]:
    """Settings that do not go together, verl's version, its platform; the pairs are loaded."""
    yield _attempt(
        "keys", "combinations of settings, gate and pairs are fine", "", lambda: check_config(config)
    )
    yield _attempt(
        "verl", f"the version the recipe is written for, {installed_version('verl')}", "", stack.check_version
    )
    device = str(config.trainer.device)
    yield _attempt("platform", f"verl runs on {device}", "", lambda: stack.check_platform(device))


def check_versions(config: DictConfig) -> Iterator[Finding]:
    """Installed packages against the pins of pyproject.toml, for the device of the preset."""
    extra = "cpu" if config.trainer.device == "cpu" else "gpu"
    try:
        pins = [Requirement(line) for line in importlib.metadata.requires("evil-moe") or ()]
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            "versions", FAIL, "evil-moe is not installed, so verl does not find its platform", "make setup"
        )
        return
    wanted = [pin for pin in pins if pin.marker is None or pin.marker.evaluate({"extra": extra})]
    off = {
        pin: found
        for pin in wanted
        if (found := installed_version(pin.name)) is None or found not in pin.specifier
    }
    for pin, found in off.items():
        mend = f"pip install '{pin.name}{pin.specifier}'" if extra == "gpu" else "make setup"
        yield Finding(
            "versions", FAIL, f"{pin.name} is {found or 'not installed'}, wanted {pin.specifier}", mend
        )
    if not off:
        yield Finding("versions", OK, f"{len(wanted)} packages at the pins of the {extra} extra")


def check_machine(config: DictConfig) -> Iterator[Finding]:
    """RAM, disk."""
    import psutil

    ranks, on_cpu = int(config.trainer.n_gpus_per_node), config.trainer.device == "cpu"
    free = psutil.virtual_memory().available / GB
    need = (
        CPU_RUN_RAM_GB * ranks if on_cpu else 32.0 + 16.0 * ranks
    )  # CUDA: each rank loads, and vLLM's sleep keeps, the base
    short = free < need
    mend = "close other programs or use fewer ranks" if short else ""
    status = FAIL if free < MIN_RAM_GB * ranks else WARN if short else OK
    yield Finding(
        "ram", status, f"{free:.1f} GB available, about {need:.0f} GB used by {ranks} rank(s)", mend
    )
    place = _existing(Path(config.evil_moe.run_dir))
    disk = shutil.disk_usage(place).free / GB
    status = FAIL if disk < MIN_DISK_GB else WARN if disk < GOOD_DISK_GB else OK
    yield Finding(
        "disk", status, f"{disk:.0f} GB free at {place}", "" if status == OK else "make room for checkpoints"
    )


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(p for p in (path, *path.parents) if p.exists())


FROM_GGUF = ("gguf", "smollm")
"""Kinds of policy that are converted from a GGUF file."""
POLICY_MEND = "set actor_rollout_ref.model.path to a model's whole folder, as save_pretrained writes it, or to a hub name"


def is_hub_name(path: str) -> bool:
    """Whether this may be the name of a model on the hub, which has one slash at most."""
    return not path.startswith(("/", "~", ".")) and path.count("/") <= 1


def check_model(config: DictConfig) -> Iterator[Finding]:
    """Where the policy comes from."""
    path = str(config.actor_rollout_ref.model.path)
    if config.evil_moe.policy.kind == "nano":
        yield Finding("policy", OK, "nano: built on first use, about three minutes, then cached")
    elif config.evil_moe.policy.kind in FROM_GGUF and not Path(path).is_dir():
        from evil_moe.experiment.assets.policies import gguf_file
        from evil_moe.gguf_policy import gguf_config

        try:
            file = gguf_file(config)
            gguf_config(file)
        except ValueError as error:
            yield Finding("policy", FAIL, str(error))
        else:
            yield Finding("policy", OK, f"{file}: converted on first use, then cached")
    elif Path(path).is_dir():
        lacks = [name for name in ("config.json", "*.safetensors") if not any(Path(path).glob(name))]
        text = f"{path} lacks {' and '.join(lacks)}" if lacks else path
        yield Finding("policy", FAIL if lacks else OK, text, POLICY_MEND if lacks else "")
    elif not is_hub_name(path):
        yield Finding("policy", FAIL, f"{path} is no folder", POLICY_MEND)
    else:
        from huggingface_hub import try_to_load_from_cache

        cached = isinstance(try_to_load_from_cache(path, "config.json"), str)
        # The workers see what the config says, nano's for one.
        offline = (os.environ | driver_environment(config)).get("HF_HUB_OFFLINE") == "1"
        if cached:
            yield Finding("policy", OK, f"{path} is in the Hugging Face cache")
        elif offline:
            mend = f"hf download {path}, or unset HF_HUB_OFFLINE (ray_kwargs.ray_init.runtime_env.env_vars has one, too)"
            yield Finding(
                "policy", FAIL, f"{path} is not in the Hugging Face cache and HF_HUB_OFFLINE=1", mend
            )
        else:
            yield Finding(
                "policy",
                WARN,
                f"{path} is not cached",
                f"it is downloaded at the start: hf download {path}",
            )


def check_data(config: DictConfig) -> Iterator[Finding]:
    """Problem files that the config names."""
    from reward.problems import load_problems

    data = config.evil_moe.data
    if data.source != "files":
        yield Finding("problems", OK, f"from the generator ({data.source})")
        return
    for name in ("train", "evaluation"):
        path = data.get(name)
        if not path:
            yield Finding("problems", FAIL, "no file is named", f"set evil_moe.data.{name}=PATH")
            continue
        try:
            yield Finding("problems", OK, f"{path}: {len(load_problems(path))} problems")
        except (ValueError, FileNotFoundError) as error:
            yield Finding(
                "problems",
                FAIL,
                str(error),
                f"download the benchmark's file, or set evil_moe.data.{name}=PATH",
            )


def check_run_dir(config: DictConfig) -> Finding:
    """Whether the run can write, and whether it would resume."""
    folder = Path(config.evil_moe.run_dir)
    place = _existing(folder)
    if not place.is_dir() or not os.access(place, os.W_OK):
        return Finding(
            "run_dir", FAIL, f"{place} is not a folder you may write to", "give another evil_moe.run_dir"
        )
    try:
        step = resume_step(folder)
    except ValueError as error:
        return Finding("run_dir", FAIL, str(error))
    return Finding("run_dir", OK, f"{folder}" + (f": resumes from step {step}" if step else ": writable"))


def check_wandb(config: DictConfig) -> Finding:
    """Where wandb's records go."""
    if "wandb" not in config.trainer.logger:
        return Finding("wandb", OK, "not used")
    mode = driver_environment(config).get("WANDB_MODE", os.environ.get("WANDB_MODE", "online"))
    where = f"kept in {config.evil_moe.run_dir}/wandb; upload with `wandb login` and `wandb sync`"
    return Finding("wandb", OK, "logged in" if mode == "online" else f"{mode}: {where}")
