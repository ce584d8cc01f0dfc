"""Compose a run's config: verl's, our overlay, a preset, an arm, the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

import configs
from evil_moe.experiment.run.names import slug
from evil_moe.experiment.settings import EvilMoESettings, settings_from

FILES = (
    "evil_moe.run_dir",
    "evil_moe.data.train",
    "evil_moe.data.evaluation",
    "evil_moe.pairs.paths",
    "evil_moe.monitor.probe",
)
"""Keys that hold paths: made absolute, since workers and later commands may run elsewhere."""
CONFIG_DIR = Path(configs.__path__[0])
GROUPS = ("preset", "arm")
"""Config groups whose files merge into the whole config and are told apart by their names."""


def compose(overrides: list[str]) -> DictConfig:
    """The whole config, checked, with absolute paths for what other processes read.

    Raises:
        ValueError: an unknown arm, preset or key, or a value that is not allowed; says what there is. Or as
            `_check_files`.
    """
    # Every switch of the method, so that the command line can set what the YAML files leave at its default.
    defaults = OmegaConf.to_container(OmegaConf.structured(EvilMoESettings))
    ConfigStore.instance().store(name="evil_moe_defaults", node={"evil_moe": defaults})
    try:
        with hydra.initialize_config_dir(str(CONFIG_DIR), version_base=None):
            config: DictConfig = hydra.compose("evil_moe", overrides=overrides, return_hydra_config=True)
            chosen = {group: config.hydra.runtime.choices[group] for group in GROUPS}
            with open_dict(config):
                del config["hydra"]
            _check_files(config, chosen, overrides)
            config.evil_moe.variant = config.evil_moe.variant or _variant(config, overrides)
            settings_from(config.evil_moe)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_explain(error)) from error
    with open_dict(config):
        for key in FILES:
            if (given := OmegaConf.select(config, key)) is not None:
                found = (
                    [_absolute(path) for path in given] if isinstance(given, ListConfig) else _absolute(given)
                )
                OmegaConf.update(config, key, found)
        config.actor_rollout_ref.rollout.agent.agent_loop_config_path = str(CONFIG_DIR / "agent_loop.yaml")
    return config


def _variant(config: DictConfig, overrides: list[str]) -> str:
    """What sets the folders of runs apart whose loophole is not the preset's or the arm's own; empty for theirs."""
    others = [o for o in overrides if o.lstrip("+").partition("=")[0] != "evil_moe.loophole"]
    if len(others) == len(overrides):
        return ""
    own = hydra.compose("evil_moe", overrides=others).evil_moe.loophole
    return "" if own == config.evil_moe.loophole else f"@{slug(config.evil_moe.loophole)}"


def _check_files(config: DictConfig, chosen: dict[str, str], overrides: list[str]) -> None:
    """That the chosen files reached the keys they set, and name themselves: their runs' folders follow from it.

    Raises:
        ValueError: Hydra put a file's keys aside, as it does if another comment stands above its package line; or the
            file goes by another's name, its parent's, say.
    """
    for group, name in chosen.items():
        if group in config:
            raise ValueError(
                f"{group}={name}: its file's keys went under {group!r}, where nothing reads them: make "
                "`# @package _global_` its very first line, with a licence or any other comment below it"
            )
        stated = config.evil_moe[group]
        named = any(override.lstrip("+").startswith(f"evil_moe.{group}=") for override in overrides)
        if stated != name and not named:
            raise ValueError(
                f"{group}={name} says of itself evil_moe.{group}={stated}, so its runs would count as that {group}'s and go "
                f"to their folders: let its file set evil_moe.{group} to {name}"
            )


def _absolute(path: str) -> str:
    return str(Path(path).absolute())


def show(overrides: list[str], key: str | None = None) -> str:
    """The composed config as YAML, interpolations resolved; the part at a dotted key, if one is named.

    Raises:
        ValueError: as `compose`; or there is no such key, then says which there are beside it.
    """
    part: Any = OmegaConf.to_container(compose(overrides), resolve=True)
    for name in key.split(".") if key else ():
        if not isinstance(part, dict) or name not in part:
            there = ", ".join(part) if isinstance(part, dict) else "no keys: it is inside a value"
            raise ValueError(f"--key {key}: the config has no such key; where {name!r} should be are {there}")
        part = part[name]
    return yaml.safe_dump(part, sort_keys=False).removesuffix("...\n")  # YAML's end mark after a lone value


def prereg_file(preset: str) -> Path | None:
    """The hypotheses written down for a preset; None if there are none."""
    path = CONFIG_DIR / "prereg" / f"{preset}.yaml"
    return path if path.is_file() else None


def choices(group: str) -> list[str]:
    """Names in a config group, `arm` or `preset`."""
    return sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))


def _explain(error: Exception) -> str:
    text = str(error).strip()
    for group in GROUPS:
        if f"'{group}/" in text:
            return f"{text.splitlines()[0]} Choose one of {choices(group)}."
    return text
