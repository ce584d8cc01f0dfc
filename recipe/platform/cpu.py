"""CPU as a verl platform, loaded in every process through the `verl.plugins` entry point.

verl 0.9.1 knows accelerators only. Keep this module light, since every Ray process imports it, and keep anything
that may fail out of it: verl swallows a plugin's error at DEBUG level (`evil_moe.experiment.config_checks` asserts that it loaded).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import psutil
import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry

CPU_PLATFORM = "cpu"


def _memory_info(*_: Any) -> tuple[int, int]:
    memory = psutil.virtual_memory()
    return memory.available, memory.total


def _resident(*_: Any) -> int:
    return psutil.Process().memory_info().rss


class _CpuDeviceModule(ModuleType):
    """`torch.cpu` plus the functions that verl calls on a device module and `torch.cpu` lacks."""

    def __init__(self) -> None:
        super().__init__("evil_moe_cpu_device")
        nothing = lambda *_, **__: None  # noqa: E731
        for name in ("empty_cache", "reset_peak_memory_stats", "ipc_collect", "set_device", "synchronize"):
            setattr(self, name, nothing)
        for name in ("max_memory_allocated", "max_memory_reserved", "memory_allocated", "memory_reserved"):
            setattr(self, name, _resident)
        self.mem_get_info = _memory_info
        self.get_device_name = lambda *_: "CPU"
        self.current_device = lambda: CPU_PLATFORM
        self.device_count = lambda: 1
        self.is_available = lambda: True
        self.get_rng_state = torch.get_rng_state
        self.set_rng_state = torch.set_rng_state

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)


@PlatformRegistry.register(platform=CPU_PLATFORM)
class PlatformCPU(PlatformBase):
    """Ranks are processes over gloo; Ray's logical `GPU` resource counts them."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _CpuDeviceModule()

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        # Asked where VERL_PLATFORM names none: on a machine with GPUs, Ray's processes without one see none either, and
        # would take this platform.
        return os.environ.get("VERL_PLATFORM", "").strip().lower() == CPU_PLATFORM

    def current_device(self) -> str:  # type: ignore[override]  # an index elsewhere; torch takes "cpu" where it goes
        return CPU_PLATFORM

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        pass

    def synchronize(self, device_index: int | None = None) -> None:
        pass

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        pass

    def empty_cache(self) -> None:
        pass

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        pass

    def profiler_stop(self) -> None:
        pass

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> None:
        return None
