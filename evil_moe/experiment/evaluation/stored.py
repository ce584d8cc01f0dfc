"""What of a run's evaluations is on disk, and what one is made from: its config and its adapter."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from evil_moe.adapter.checkpoint import check_adapter_checkpoint
from evil_moe.experiment.evaluation.strengths import KEY as STRENGTHS
from evil_moe.experiment.evaluation.strengths import settle_strengths
from evil_moe.experiment.run.console import say
from evil_moe.experiment.run.folder import changes, checkpoint_steps, latest_step, read_config
from evil_moe.experiment.run.names import eval_name
from evil_moe.report.files import read_json


def load_run_config(run_dir: Path, overrides: list[str]) -> DictConfig:
    """The config a run was trained with, with overrides `key=value` of keys that it has.

    Raises:
        FileNotFoundError: `run_dir` is no run folder.
        ValueError: its config is malformed, an override names no key of it or has no value, or the strengths are no list of
            different numbers from 0 to 1.
    """
    for override in overrides:
        if override.startswith(("+", "~")):
            raise ValueError(
                f"override {override!r}: an evaluation takes plain key=value of keys that the run has, no {override[0]}key"
            )
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: {run_dir} is no run folder; train first (evil-moe train) or name another"
        )
    config = read_config(run_dir)
    for override in overrides:
        key, _, value = override.partition("=")
        parent, _, name = key.rpartition(".")
        beside = OmegaConf.select(config, parent) if parent else config
        if not isinstance(beside, DictConfig) or (name not in beside and key != STRENGTHS):
            there = ", ".join(map(str, beside)) if isinstance(beside, DictConfig) else f"no {parent!r} either"
            raise ValueError(f"override {override!r}: {path} has no key {key!r}; there is {there}")
        try:
            OmegaConf.update(config, key, OmegaConf.create(f"x: {value}").x)
        except (YAMLError, OmegaConfBaseException) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"override {override!r}: {value!r} is no value for it ({reason})") from error
    settle_strengths(config)
    return config


def made_with(run_dir: Path, config: DictConfig) -> dict[str, Any]:
    """What an evaluation of a run's checkpoint depends on: its size, its seed, and every key that was overridden."""
    settings = config.evil_moe
    trained_with = read_config(run_dir)
    settle_strengths(trained_with)
    trained = OmegaConf.to_container(trained_with)
    return {
        "problems": settings.data.eval_problems,
        "samples_per_problem": settings.eval.samples_per_problem,
        "seed": settings.seed,
        "overrides": {key: new for key, (_, new) in changes(trained, OmegaConf.to_container(config)).items()},
    }


def eval_folder(run_dir: Path, step: int | None, overrides: list[str]) -> Path:
    """Where an evaluation of a step (None: the last one) is kept: the run's own in `eval/`, of which reports read, and one
    in another mode, of an earlier step or with other keys beside it.

    Raises:
        ValueError, FileNotFoundError: as `load_run_config`.
    """
    latest = latest_step(run_dir)
    how = made_with(run_dir, load_run_config(run_dir, overrides))
    return run_dir / eval_name(latest if step is None else step, latest, how)


def stored_result(run_dir: Path, step: int | None, overrides: list[str]) -> dict[str, Any] | None:
    """The evaluation on disk if it is of this step (None: the last one) and made in this way. If it is another, a line
    says so. One in another mode, or with other keys, has a folder of its own (`eval_folder`).

    Raises:
        ValueError: it cannot be read, or as `load_run_config`. FileNotFoundError: as `load_run_config`.
    """
    wanted = made_with(run_dir, load_run_config(run_dir, overrides))
    path = eval_folder(run_dir, step, overrides) / "eval.json"
    if not path.is_file():
        return None
    result, step = read_json(path), latest_step(run_dir) if step is None else step
    if result.get("step") != step:
        why = f"is of step {result.get('step')}, not {step}"
    elif "made_with" not in result:
        why = "does not say what it was made with, as older versions did not"
    elif result["made_with"] != wanted:
        why = f"was made with {result['made_with']}, not {wanted}"
    else:
        return result
    say(f"{os.path.relpath(path)} {why}: evaluating again")
    return None


def adapter_folder(run_dir: Path, step: int | None) -> tuple[Path, int]:
    """The whole adapter of a step (None: the last one).

    Raises:
        FileNotFoundError: there is no such checkpoint; lists those there are.
        ValueError: a file of it is malformed.
    """
    if not run_dir.is_dir():
        raise FileNotFoundError(
            f"{run_dir} does not exist: train first (evil-moe train), or name a run's folder"
        )
    checkpoints = run_dir / "checkpoints"
    step = latest_step(run_dir) if step is None else step
    folder = checkpoints / f"global_step_{step}" / "actor" / "adapter"
    if not (folder / "adapter_config.json").is_file():
        there = checkpoint_steps(run_dir)
        raise FileNotFoundError(
            f"no adapter checkpoint of step {step} in {checkpoints}; steps there: {there}; name one with --step"
            if there
            else f"no adapter checkpoint in {checkpoints}: train first (evil-moe train)"
        )
    check_adapter_checkpoint(folder)
    return folder, step
