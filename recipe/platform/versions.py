"""What verl and vLLM say of themselves: their versions, the platform, whether they can be imported."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os

from omegaconf import DictConfig

from evil_moe.experiment.doctor.finding import FAIL, OK, Finding
from evil_moe.experiment.versions import installed_version

VERL_VERSION = "0.9.1"
"""The extension points under recipe/ were written against this version; another needs them looked at again."""


def check_verl() -> None:
    """Raises RuntimeError: verl is another version than the recipe was written for."""
    found = importlib.metadata.version("verl")
    if found != VERL_VERSION:
        raise RuntimeError(
            f"verl {found} is installed, the recipe is written for {VERL_VERSION}: pip install verl=={VERL_VERSION}"
        )


def check_platform(device: str) -> None:
    """That verl runs on the configured device in this process; verl hides a plugin that fails to load.

    Raises:
        RuntimeError: it does not.
    """
    from verl.utils.device import get_device_name

    if (found := get_device_name()) != device:
        asked = os.environ.get("VERL_PLATFORM")
        if device == "cpu":
            mend = (
                "install this project (its entry point 'verl.plugins' registers the CPU platform) and set VERL_PLATFORM=cpu "
                "(ray_kwargs.ray_init.runtime_env.env_vars.VERL_PLATFORM, as preset=nano does): it answers to nothing else"
            )
        elif asked:
            mend = "unset VERL_PLATFORM, or take a preset for the CPU"
        else:
            mend = "check nvidia-smi"
        said = f"VERL_PLATFORM={asked}" if asked else "VERL_PLATFORM is not set"
        raise RuntimeError(f"trainer.device={device} but verl runs on {found} ({said}): {mend}")


def find_vllm(config: DictConfig) -> Finding:
    """The distribution that verl looks up, and the module."""
    version = installed_version("vllm")
    mend = _vllm_mend(config)
    if version is None:
        return Finding("vllm", FAIL, "no distribution of the name vllm, which verl looks up", mend)
    if importlib.util.find_spec("vllm") is None:
        return Finding("vllm", FAIL, f"vllm {version} is recorded as installed, its module is gone", mend)
    return Finding("vllm", OK, f"{version} is there")


def check_vllm(config: DictConfig) -> Finding:
    """As `find_vllm`; the module is imported, which takes seconds."""
    found = find_vllm(config)
    if found.status != OK:
        return found
    version = installed_version("vllm")
    try:
        importlib.import_module("vllm")
    except (ImportError, OSError) as error:
        return Finding("vllm", FAIL, f"vllm {version} does not import: {error}", _vllm_mend(config))
    return Finding("vllm", OK, f"{version} imports")


def _vllm_mend(config: DictConfig) -> str:
    return "make setup" if config.trainer.device == "cpu" else "pip install -e '.[gpu]'"
