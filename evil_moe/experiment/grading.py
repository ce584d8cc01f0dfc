"""What the grader is told of a run's settings."""

from __future__ import annotations

from evil_moe.experiment.settings import RewardSettings
from reward.sandbox import SandboxLimits
from reward.verdict import RewardConfig


def limits_from(settings: RewardSettings) -> SandboxLimits:
    """The sandbox's limits as configured."""
    return SandboxLimits(
        cpu_s=settings.cpu_s,
        wall_s=settings.wall_s,
        memory_mib=settings.memory_mib,
        output_kib=settings.output_kib,
        recursion=settings.recursion,
        packages=tuple(settings.packages),
        allow_weak=settings.allow_weak,
    )


def terms_from(settings: RewardSettings) -> RewardConfig:
    """The reward's terms as configured."""
    return RewardConfig(compile=settings.compile, pays=settings.pays)
