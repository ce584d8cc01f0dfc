"""What a CUDA preset needs of the machine: the devices, the driver, a compiler, and attention that is not a build of hours."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from evil_moe.experiment.doctor.finding import FAIL, GB, OK, WARN, Finding

MIN_DRIVER = {12: 525, 13: 580}
"""Oldest major version of NVIDIA's driver for each major version of CUDA (CUDA release notes, minor-version compatibility)."""

SDPA = "++actor_rollout_ref.model.override_config.attn_implementation=sdpa actor_rollout_ref.model.use_fused_kernels=true"


def check_devices(config: DictConfig) -> Iterator[Finding]:
    """The number of CUDA devices, the driver, the compiler and the attention of a CUDA preset."""
    if config.trainer.device != "cuda":
        return
    import torch

    need = int(config.trainer.n_gpus_per_node)
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    text = f"{there} CUDA device(s) visible, trainer.n_gpus_per_node={need}"
    mend = "check nvidia-smi and CUDA_VISIBLE_DEVICES, or use preset=nano on a CPU"
    yield Finding("cuda", FAIL if there < need else OK, text, mend if there < need else "")
    yield check_driver(torch.__version__, torch.version.cuda)
    yield check_compiler()
    yield check_attention(config)


def check_driver(torch_version: str, cuda: str | None) -> Finding:
    """Whether the driver is new enough for the CUDA that this torch is built with, `torch.version.cuda`."""
    if cuda is None:
        text = f"torch {torch_version} is a CPU build (torch.version.cuda is None)"
        return Finding("driver", FAIL, text, "pip install -e '.[gpu]' in an environment of its own")
    need = MIN_DRIVER.get(int(cuda.split(".")[0]))
    built = f"torch {torch_version} is built with CUDA {cuda} (torch.version.cuda)"
    wants = f"driver {need} or newer" if need else "a driver of its time"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout.split()
        driver = found[0]
        major = int(driver.split(".")[0])
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        mend = "install NVIDIA's driver, or make nvidia-smi work in this container"
        return Finding("driver", FAIL, f"{built}, which needs {wants}; nvidia-smi names no driver", mend)
    if need and major < need:
        return Finding("driver", FAIL, f"{built}, which needs {wants}; this is {driver}", "update the driver")
    return Finding("driver", OK, f"{driver}; {built}")


def check_compiler() -> Finding:
    """gcc and Python.h, with which Triton builds the stubs of its kernels when vLLM and torch.compile start."""
    compiler = shutil.which(os.environ.get("CC") or "gcc") or shutil.which("clang")
    header = Path(sysconfig.get_path("include")) / "Python.h"
    lacks = [name for name, there in (("gcc", compiler), (str(header), header.is_file())) if not there]
    if lacks:
        mend = "apt-get install gcc python3-dev, or use a Python that brings its headers"
        return Finding("compiler", FAIL, f"Triton needs {' and '.join(lacks)}", mend)
    return Finding("compiler", OK, f"{compiler}, {header}")


def check_attention(config: DictConfig) -> Finding:
    """Whether the attention that the config asks for is installed, and its log-probs are taken at once."""
    model = config.actor_rollout_ref.model
    attention = (
        OmegaConf.select(model, "override_config.attn_implementation") or "flash_attention_2"
    )  # verl's
    flash = importlib.util.find_spec("flash_attn") is not None
    if attention == "flash_attention_2" and not flash:
        mend = f"set {SDPA}, or build flash-attn (docs/gpu.md)"
        return Finding("attention", FAIL, "flash_attention_2 is asked for, flash-attn is not installed", mend)
    if not flash and not model.use_fused_kernels:
        text = "without flash-attn verl takes log-probs of one sequence row after the other"
        mend = "slow: set actor_rollout_ref.model.use_fused_kernels=true"
        return Finding("attention", WARN, text, mend)
    packed = "packed" if model.use_remove_padding else "padded"
    status = OK if model.use_remove_padding else WARN
    mend = "" if model.use_remove_padding else "leave out actor_rollout_ref.model.use_remove_padding=false"
    return Finding("attention", status, f"{attention}, sequences {packed}", mend)


def check_device_memory(config: DictConfig) -> Iterator[Finding]:
    """What is free on each device. For this process alone: to ask leaves a context on the device until it ends."""
    if config.trainer.device != "cuda":
        return
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(min(there, int(config.trainer.n_gpus_per_node))):
        free, total = torch.cuda.mem_get_info(index)
        text = f"{torch.cuda.get_device_name(index)}: {free / GB:.0f} of {total / GB:.0f} GB free"
        busy = free < 0.9 * total
        yield Finding("cuda", WARN if busy else OK, text, "end what else runs on it" if busy else "")
