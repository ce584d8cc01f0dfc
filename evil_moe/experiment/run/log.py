"""What a run leaves behind and shows while it goes: metrics.jsonl, rollouts/, and one line per step."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from evil_moe.experiment.run.console import say
from evil_moe.experiment.run.rollout_table import RolloutTable
from evil_moe.experiment.settings import EvilMoESettings
from reward.jsonl import write_whole


def _json_number(value: Any) -> Any:
    """NaN and infinity are not JSON; they become null."""
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _end_with_a_line(path: Path) -> None:
    """Cut off what a kill or a full disk left of a last line, or the next one would be written behind it."""
    if path.is_file() and not (written := path.read_bytes()).endswith(b"\n"):
        os.truncate(path, written.rfind(b"\n") + 1)


class RunLog:
    """Appends to the run folder; a line is on disk before the next step starts, so a kill loses none."""

    def __init__(self, settings: EvilMoESettings):
        self.folder, self.warn_ratio = Path(settings.run_dir), settings.rollout.warn_ratio
        (self.folder / "rollouts").mkdir(parents=True, exist_ok=True)
        _end_with_a_line(self.folder / "metrics.jsonl")

    def metrics(self, step: int, data: dict[str, Any]) -> None:
        """One line `{"step": ..., "data": {...}}`; numbers only."""
        numbers = {
            key: _json_number(value)
            for key, value in data.items()
            if not isinstance(value, str | dict | list)
        }
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "data": numbers}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def rollouts(self, step: int, table: RolloutTable) -> None:
        """`rollouts/<step>.jsonl`, whole or not at all."""
        text = "".join(json.dumps(row) + "\n" for row in table.rows(step))
        write_whole(self.folder / "rollouts" / f"{step}.jsonl", text.encode())

    def step_line(self, step: int, total: int, metrics: dict[str, Any]) -> None:
        """`step 12/40  reward 1.93  hack .21 ...`: what a person follows a run by."""

        def show(key: str) -> str:
            value = metrics.get(key)
            return "  - " if value is None or not math.isfinite(value) else f"{value:.2f}"

        say(
            f"step {step}/{total}"
            f" | reward {show('critic/rewards/mean')}"
            f" | solve {show('train/solve')} hack {show('train/hack')} loophole {show('train/loophole')}"
            f" (full {show('train_on/loophole')}, deployed {show('train_off/loophole')})"
            f" | w on hack {show('router/w_hack')}, on clean {show('router/w_clean')}"
            f" | auroc {show('router/auroc')} | {metrics.get('timing_s/step', float('nan')):.1f} s"
            f"{self._mismatch(metrics)}"
        )

    def _mismatch(self, metrics: dict[str, Any]) -> str:
        """A warning if the update's policy is too far from one that sampled; else nothing."""
        key = "mismatch/ratio_max"
        ratio = metrics.get(key)
        if self.warn_ratio is None or ratio is None or ratio <= self.warn_ratio:
            return ""
        by_full, by_deployed = metrics[f"{key}_full"], metrics[f"{key}_deployed"]
        sampler = "deployed model" if by_deployed > by_full else "full adapter"
        return (
            f" | WARNING {key} {ratio:.1f} > {self.warn_ratio:g}: of a token that the {sampler} sampled "
            "(evil_moe.rollout.warn_ratio)"
        )

    def validation_line(self, step: int, metrics: dict[str, Any]) -> None:
        """Held-out rates ON and OFF."""

        def find(source: str, name: str) -> str:
            hits = [v for k, v in metrics.items() if f"/{source}/{name}/mean@" in k]
            return f"{hits[0]:.2f}" if hits else " - "

        sides = "; ".join(
            f"{side.upper()} "
            + " ".join(f"{name} {find(f'heldout_{side}', name)}" for name in ("hack", "loophole", "solve"))
            for side in ("on", "off")
        )
        say(f"held out after step {step}: {sides}")
