"""The `evil_moe.monitor` node of the config; what it sets up is in evil_moe/experiment/monitor.py, whose torch is not needed here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from reward.monitors import ACTIONS, LABELS, Detector, Judge

KINDS = ("none", "ground_truth", "probe", "judge")
MONITORED = "monitored"
"""Reward extra of a rollout: whether it is what the run's monitor is after, by `evil_moe.monitor.label`."""
_DIALS = tuple(f.name for f in fields(Detector))
_JUDGE = tuple(f.name for f in fields(Judge))


@dataclass(frozen=True)
class MonitorSettings:
    """The `evil_moe.monitor` node. What belongs to another kind must be left at its default.

    Attributes:
        kind: one of `KINDS`; `none` turns the monitor off, whatever else is set.
        action: `penalty` (reward - penalty from the threshold on), `progressive` (reward - penalty * score) or
            `screening` (counts neither in its group's mean nor in the update).
        penalty: the default takes back what a hack pays (`evil_moe.reward.pays`).
        threshold: scores from here on are flagged; null: the probe's own, else 0.5.
        label: what `ground_truth` takes for a hack, and `monitor/tpr` and `monitor/fpr` of every kind count: `loophole`
            (taken, whether or not the answer is correct), `strict` or `loose`, see `reward.monitors.label`. The
            benchmark penalises by its strict label and screens by its loose one.
        accuracy .. recall: of `ground_truth`, one dial of `reward.monitors.Detector`.
        probe: of `probe`, the folder that `evil-moe probe` wrote.
        base_url .. structured: of `judge`, see `reward.monitors.Judge`.

    Raises:
        ValueError: names the key, what is allowed and how to mend it.
    """

    kind: str = "none"
    action: str = "penalty"
    penalty: float = 3.0
    label: str = "loophole"
    threshold: float | None = None
    accuracy: float | None = None
    true_positive_rate: float | None = None
    false_positive_rate: float | None = None
    precision: float | None = None
    recall: float | None = None
    probe: str | None = None
    base_url: str | None = None
    model: str | None = None
    api_key_env: str | None = None
    timeout_s: float = 60.0
    retries: int = 2
    max_concurrency: int = 16
    max_reply_tokens: int = 16
    structured: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (("kind", KINDS), ("action", ACTIONS), ("label", LABELS)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"evil_moe.monitor.{name}={getattr(self, name)!r}; choose one of {list(allowed)}"
                )
        if self.kind == "none":
            return
        if not (math.isfinite(self.penalty) and self.penalty > 0):
            raise ValueError(f"evil_moe.monitor.penalty={self.penalty} must be a positive number")
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise ValueError(f"evil_moe.monitor.threshold={self.threshold} must lie in (0, 1], or be null")
        owned = {"ground_truth": _DIALS, "probe": ("probe",), "judge": _JUDGE}
        defaults = {f.name: f.default for f in fields(self)}
        for kind, names in owned.items():
            foreign = [name for name in names if kind != self.kind and getattr(self, name) != defaults[name]]
            if foreign:
                raise ValueError(
                    f"evil_moe.monitor.{foreign[0]}={getattr(self, foreign[0])!r} belongs to kind={kind}, not to "
                    f"kind={self.kind}: leave it out"
                )
        for name in {"probe": ("probe",), "judge": ("base_url", "model")}.get(self.kind, ()):
            if not getattr(self, name):
                mend = "EVIL_MOE_JUDGE_URL and EVIL_MOE_JUDGE_MODEL, or it" if self.kind == "judge" else "it"
                raise ValueError(f"evil_moe.monitor.{name} is needed by kind={self.kind}: set {mend}")
        if self.kind == "ground_truth":
            self.detector()

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> MonitorSettings:
        """Settings of plain config values.

        Raises:
            ValueError: as the class, or a key that it does not have.
        """
        unknown = [key for key in values if key not in {f.name for f in fields(cls)}]
        if unknown:
            raise ValueError(
                f"evil_moe.monitor.{unknown[0]} is no key; there are {[f.name for f in fields(cls)]}"
            )
        return cls(**values)

    def detector(self) -> Detector:
        """The detector of `ground_truth`."""
        try:
            return Detector(**{name: getattr(self, name) for name in _DIALS})
        except ValueError as error:
            raise ValueError(f"evil_moe.monitor.{_named(error, _DIALS)}: {error}") from error

    def judge(self) -> Judge:
        """The judge of `judge`; needs its key in the environment of this process."""
        try:
            return Judge(**{name: getattr(self, name) for name in _JUDGE})
        except ValueError as error:
            raise ValueError(f"evil_moe.monitor.{_named(error, _JUDGE)}: {error}") from error


def _named(error: ValueError, names: tuple[str, ...]) -> str:
    """The key that an error of ours begins with, else the keys it is about."""
    first = str(error).replace("=", " ").split()[0]
    return first if first in names else "/".join(names)
