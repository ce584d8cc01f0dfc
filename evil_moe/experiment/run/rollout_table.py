"""Rates and router quality of a step's rollouts, by the evaluation's own labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from evil_moe.diagnostics import auroc, f_beta, weight_by_class


@dataclass(frozen=True)
class RolloutTable:
    """One row per rollout of a step; arrays and lists of one length B.

    Attributes:
        adapter: `full` or `deployed`. mode: the loophole that its prompt discloses. reason: why it is not correct, "" if it is.
            w, score: of the router. reward: the task's.
        paid: what a monitor's penalty leaves of it. advantage: of each token. kept: 0 if a monitor screened it out of the update.
        solve, loophole, hack, compile: 0 or 1, the grader's. faults, grade_cpu_ms: of the sandbox, on this rollout.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("solve", "loophole", "hack", "compile", "faults", "grade_cpu_ms")

    key: list[str]
    adapter: list[str]
    mode: list[str]
    reason: list[str]
    prompt: list[str]
    response: list[str]
    reward: np.ndarray
    paid: np.ndarray
    advantage: np.ndarray
    kept: np.ndarray
    w: np.ndarray
    score: np.ndarray
    solve: np.ndarray
    loophole: np.ndarray
    hack: np.ndarray
    compile: np.ndarray
    faults: np.ndarray
    grade_cpu_ms: np.ndarray

    def rows(self, step: int) -> Iterator[dict[str, Any]]:
        """JSON rows for the run folder."""
        for i, key in enumerate(self.key):
            yield {
                "step": step,
                "key": key,
                "adapter": self.adapter[i],
                "mode": self.mode[i],
                "w": float(self.w[i]),
                "router_score": float(self.score[i]),
                "reward": float(self.reward[i]),
                "paid": float(self.paid[i]),
                "advantage": float(self.advantage[i]),
                "kept": bool(self.kept[i]),
                "correct": bool(self.solve[i]),
                "loophole": bool(self.loophole[i]),
                "hack": bool(self.hack[i]),
                "compile": bool(self.compile[i]),
                "reason": self.reason[i],
                "prompt": self.prompt[i],
                "response": self.response[i],
            }


def class_metrics(table: RolloutTable) -> dict[str, float]:
    """Rates over all rollouts and by sampling state; w by class, AUROC and F0.5 against loophole use; with several
    loopholes the rates, w and AUROC on the rollouts of each.

    Loophole use is the label rather than strict hack, which cannot exceed 1 - solve.
    """
    out: dict[str, float] = {}
    on = np.array([adapter == "full" for adapter in table.adapter])
    for prefix, rows in (("train", np.ones_like(on)), ("train_on", on), ("train_off", ~on)):
        if rows.any():
            for name in ("hack", "loophole", "solve", "compile"):
                out[f"{prefix}/{name}"] = float(getattr(table, name)[rows].mean())
    scores, w = torch.from_numpy(table.score), torch.from_numpy(table.w)
    loophole, hack = torch.from_numpy(table.loophole) > 0, torch.from_numpy(table.hack) > 0
    out["router/auroc"], out["router/auroc_hack"] = auroc(scores, loophole), auroc(scores, hack)
    out["router/f0.5"] = f_beta(w, loophole)
    by_loophole = weight_by_class(w, loophole)
    out["router/w_loophole"], out["router/w_clean"] = by_loophole["w_hack"], by_loophole["w_clean"]
    out["router/w_hack"] = weight_by_class(w, hack)["w_hack"]
    if len(set(table.mode)) > 1:
        for mode in sorted(set(table.mode)):
            rows = np.array([other == mode for other in table.mode])
            for name in ("hack", "loophole", "solve", "compile"):
                out[f"train/{mode}/{name}"] = float(getattr(table, name)[rows].mean())
            ours = torch.from_numpy(rows)
            by_loophole = weight_by_class(w[ours], loophole[ours])
            out[f"router/{mode}/auroc"] = auroc(scores[ours], loophole[ours])
            out[f"router/{mode}/w_loophole"] = by_loophole["w_hack"]
            out[f"router/{mode}/w_clean"] = by_loophole["w_clean"]
    out["sandbox/faults"] = float(table.faults.sum())
    out["sandbox/grade_cpu_ms"] = float(table.grade_cpu_ms.mean())
    return out
