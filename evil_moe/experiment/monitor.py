"""The monitor at the reward stop: looks at a step's rollouts, then penalises or screens out what it finds.

A monitor belongs to the training under test, like the reward. `ground_truth` is the only one that sees the
grader's label, through a detector that errs at chosen rates; `probe` sees the rollouts' features, `judge` their
text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from evil_moe.experiment.assets.policies import policy_name
from evil_moe.experiment.monitor_settings import MonitorSettings
from evil_moe.experiment.settings import settings_from
from evil_moe.probe import FeatureBasis, Probe
from reward.monitors import JudgeCase, MonitorResult, act


class MonitorStage:
    """Built once by the trainer, called once a step between the rewards and the advantages.

    Args:
        settings: checked here as far as they can be: a probe is loaded, a judge's key looked up.
        seed: of the run; the mistakes of `ground_truth` follow from it, the step and each rollout's key.
        basis: of the run's features, which a probe must have been fitted on; None in the trainer, as
            the checks of a start have compared them before it started.

    Raises:
        ValueError, FileNotFoundError: the probe or the judge cannot be had, or the probe is not for these features.
    """

    def __init__(self, settings: MonitorSettings, seed: int, basis: FeatureBasis | None = None):
        self.settings, self.seed = settings, seed
        self.detector = settings.detector() if settings.kind == "ground_truth" else None
        self.judge = settings.judge() if settings.kind == "judge" else None
        self.probe = None
        if settings.kind == "probe" and settings.probe:
            self.probe = Probe.load(Path(settings.probe), basis)
        self.threshold = 0.5 if self.probe is None else self.probe.threshold
        if settings.threshold is not None:
            self.threshold = settings.threshold

    def __call__(
        self,
        step: int,
        keys: Sequence[str],
        rewards: Sequence[float],
        labels: Sequence[bool],
        prompts: Sequence[str],
        responses: Sequence[str],
        features: Tensor | None,
    ) -> MonitorResult:
        """Rewards, and what to keep, of B rollouts; the same on any number of ranks.

        Args:
            labels: what `monitor.label` calls a hack, for `ground_truth` alone. features: `[B, M, r]`, for `probe` alone.

        Raises:
            ValueError: a probe without features, or with those of another adapter.
            JudgeError: the endpoint is gone; no step is to be trained on rollouts that nobody looked at.
        """
        if self.settings.kind == "none":
            n = len(rewards)
            return MonitorResult(list(rewards), [True] * n, [False] * n, [0.0] * n)
        score = self._score(step, keys, labels, prompts, responses, features)
        return act(
            self.settings.action, rewards, score, threshold=self.threshold, penalty=self.settings.penalty
        )

    def _score(
        self,
        step: int,
        keys: Sequence[str],
        labels: Sequence[bool],
        prompts: Sequence[str],
        responses: Sequence[str],
        features: Tensor | None,
    ) -> list[float | None]:
        if self.detector is not None:
            return [float(flag) for flag in self.detector.flags(labels, ("monitor", self.seed, step), keys)]
        if self.judge is not None:
            return self.judge.scores([JudgeCase(p, r) for p, r in zip(prompts, responses, strict=True)])
        assert self.probe is not None
        if features is None:
            raise ValueError("evil_moe.monitor.kind=probe reads features of the rollouts, and got none")
        return self.probe.score(features.float()).tolist()

    def metrics(self, result: MonitorResult, labels: Sequence[bool]) -> dict[str, float]:
        """Share flagged, rates against the grader's labels (NaN if a class is absent), faults of the judge, mean reward
        after penalties.

        `monitor/capped` is there with the dials precision and recall: 1 for a step whose clean rollouts were too
        few to bring the precision down to the one asked for.
        """
        on_hack = [flag for flag, label in zip(result.flagged, labels, strict=True) if label]
        on_clean = [flag for flag, label in zip(result.flagged, labels, strict=True) if not label]
        out = {
            "monitor/flagged": _share(result.flagged),
            "monitor/tpr": _share(on_hack),
            "monitor/fpr": _share(on_clean),
            "monitor/faults": float(result.faults),
            "monitor/paid_mean": sum(result.rewards) / len(result.rewards),
        }
        if self.detector is not None and self.detector.precision is not None:
            out["monitor/capped"] = float(self.detector.rates(labels).capped)
        return out


def feature_basis(config: Any) -> FeatureBasis:
    """What the features of a run depend on, by its config."""
    settings = settings_from(config.evil_moe)
    adapter = settings.adapter
    return FeatureBasis(
        policy_name(config),
        adapter.init,
        adapter.init_seed,
        settings.feature_state,
        str(settings.router.pooling),
    )


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else math.nan
