"""Loads a run folder into one frozen `Run`.

    config.yaml          resolved; `arm`, `preset`, `seed`, `gate`, `adapter` of `evil_moe` are used
    provenance.json      printed as it is                                     (optional)
    metrics.jsonl        {"step": 3, "data": {"key": number, ...}} per line   (optional, like every key)
    rollouts/<step>.jsonl   rows with w, hack, loophole                       (optional)
    eval/eval.json       ON and OFF rates on held-out problems                (optional)
    eval/samples.jsonl   the answers behind them, with their grades           (optional)

A resumed run writes some steps again: the last value of a key at a step wins.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evil_moe.report.files import RunFolderError, number_at, read_json, read_jsonl, read_yaml
from evil_moe.sides import CONTROLS, SIDES
from evil_moe.strengths import strength_of

USED_METRICS = (
    "critic/rewards/", "train/", "router/", "grad_energy/", "gradient/", "pin/", "contrast/", "val-", "timing_s/", TOKENS := "perf/total_num_tokens",
)  # fmt: skip
MODE = re.compile(r"router/(?P<mode>[^/]+)/w_loophole")
VALIDATION = re.compile(r"val-(?:aux|core)/(?P<source>[^/]+)/(?P<name>[^/]+)/mean@(?P<samples>\d+)")


@dataclass(frozen=True)
class Curve:
    """A metric over training steps; steps without a finite value are left out."""

    steps: tuple[int, ...]
    values: tuple[float, ...]

    def __bool__(self) -> bool:
        return bool(self.steps)


@dataclass(frozen=True)
class Rates:
    """Shares of held-out samples. `hack`: used the loophole and is wrong; `loophole`: used it at all."""

    loophole: float
    hack: float
    solve: float
    compile: float


@dataclass(frozen=True)
class Evaluation:
    """The causal ablation: the adapter whole (`on`) and with the quarantine reset (`off`).

    `samples` is the number of graded samples of each side; `random_block` is the control with a random block of the
    quarantine's size reset, `base` the policy without an adapter; None where it was not evaluated.
    """

    step: int
    samples: int
    on: Rates
    off: Rates
    auroc: float | None
    random_block: Rates | None = None
    base: Rates | None = None


@dataclass(frozen=True)
class Answer:
    """One held-out answer with the grader's labels; `side` is one of `SIDES` or a strength's, `mode` the loophole of its prompt, `failed`
    the kind of reason why it is not correct ("" if it is, or where none was kept)."""

    side: str
    problem: str
    loophole: bool
    hack: bool
    solve: bool
    compile: bool
    mode: str = ""
    failed: str = ""


@dataclass(frozen=True)
class RolloutStep:
    """The routing weights of one step's rollouts, with the grader's labels (reporting only)."""

    step: int
    w: tuple[float, ...]
    hack: tuple[bool, ...]
    loophole: tuple[bool, ...]


@dataclass(frozen=True)
class Run:
    """A run folder, read and checked. `deployed` is the side that the arm deploys, `on` or `off`; `notes` are oddities
    a reader of the report should know."""

    path: Path
    arm: str
    preset: str
    seed: int
    provenance: dict[str, Any]
    metrics: dict[int, dict[str, float]]
    rollouts: tuple[RolloutStep, ...]
    evaluation: Evaluation | None
    answers: tuple[Answer, ...]
    notes: tuple[str, ...]
    deployed: str = "off"

    @property
    def name(self) -> str:
        return f"{self.arm}, seed {self.seed} ({self.preset})"

    @property
    def modes(self) -> list[str]:
        """The loopholes of a mix, which are logged one by one; empty for a run with one."""
        found = (MODE.fullmatch(key) for key in {key for data in self.metrics.values() for key in data})
        return sorted(match["mode"] for match in found if match)

    def curve(self, key: str) -> Curve:
        everywhere = ((step, data.get(key, math.nan)) for step, data in self.metrics.items())
        points = [(step, value) for step, value in everywhere if math.isfinite(value)]
        return Curve(tuple(step for step, _ in points), tuple(value for _, value in points))

    def validation(self, source: str, name: str) -> Curve:
        """The curve of `val-*/<source>/<name>/mean@N`; of several N the largest."""
        found = {}
        for key in {key for data in self.metrics.values() for key in data}:
            match = VALIDATION.fullmatch(key)
            if match and (match["source"], match["name"]) == (source, name):
                found[int(match["samples"]), key] = key
        return self.curve(found[max(found)]) if found else Curve((), ())


def load_run(path: str | Path) -> Run:
    """Reads a run folder.

    Raises:
        RunFolderError: the folder or its config.yaml is missing, or a file in it is malformed.
    """
    path = Path(path)
    if not path.is_dir():
        raise RunFolderError(path, None, "is not a folder", "name the folder of a run")
    settings = _settings(path / "config.yaml")
    notes: list[str] = []
    provenance = _optional(path / "provenance.json", notes)
    evaluation = _optional(path / "eval" / "eval.json", notes)
    metrics = _metrics(path / "metrics.jsonl", notes)
    return Run(
        path=path,
        arm=settings["arm"],
        preset=settings["preset"],
        seed=settings["seed"],
        provenance=provenance or {},
        metrics=metrics,
        rollouts=_rollouts(path / "rollouts", notes),
        evaluation=None if evaluation is None else _evaluation(evaluation, path / "eval" / "eval.json"),
        answers=_answers(path / "eval" / "samples.jsonl"),
        notes=tuple(notes),
        deployed=_deployed(settings),
    )


def _settings(path: Path) -> dict[str, Any]:
    section = read_yaml(path).get("evil_moe")
    if not isinstance(section, dict):
        raise RunFolderError(path, None, "has no section `evil_moe`", "use the config.yaml the run wrote")
    for key, kind in (("arm", str), ("preset", str), ("seed", int)):
        value = section.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            reason = f"evil_moe.{key} is {value!r}, not of type {kind.__name__}"
            raise RunFolderError(path, None, reason, "use the config.yaml the run wrote")
    for key in ("gate", "adapter"):
        if not isinstance(section.get(key), dict | None):
            reason = f"evil_moe.{key} is {section[key]!r}, not keys with values"
            raise RunFolderError(path, None, reason, "use the config.yaml the run wrote")
    return section


def _deployed(settings: dict[str, Any]) -> str:
    """An adapter without a gate is deployed whole, unless its quarantine was fitted beforehand to be taken off."""
    if "gate" not in settings:
        return "off"  # written by hand: the default is a router
    gate, adapter = settings["gate"] or {}, settings.get("adapter") or {}
    return "on" if gate.get("name") in (None, "none") and not adapter.get("quarantine_steps") else "off"


def _optional(path: Path, notes: list[str]) -> dict[str, Any] | None:
    if path.exists():
        return read_json(path)
    notes.append(f"`{path.name}` is missing.")
    return None


def _metrics(path: Path, notes: list[str]) -> dict[int, dict[str, float]]:
    if not path.exists():
        notes.append(f"`{path.name}` is missing.")
        return {}
    rows, note = read_jsonl(path)
    if note:
        notes.append(note)
    metrics: dict[int, dict[str, float]] = {}
    repeated = set()
    for line, row in rows:
        step, data = number_at(row, "step", path, line), row.get("data")
        if not step.is_integer() or not isinstance(data, dict):
            raise RunFolderError(
                path, line, "is not a step with its data", 'write {"step": 3, "data": {...}}'
            )
        if int(step) in metrics:
            repeated.add(int(step))
        kept = metrics.setdefault(int(step), {})
        for key in data:
            if key.startswith(USED_METRICS):  # null is how some loggers write NaN
                kept[key] = math.nan if data[key] is None else number_at(data, key, path, line)
    if repeated:
        notes.append(
            f"{len(repeated)} steps were logged more than once (a resumed run); the last value counts."
        )
    return dict(sorted(metrics.items()))


def _rollouts(folder: Path, notes: list[str]) -> tuple[RolloutStep, ...]:
    steps = []
    for path in folder.glob("*.jsonl"):
        if not path.stem.isdigit():
            raise RunFolderError(
                path, None, "is not named after a step", "name it like 12.jsonl or move it away"
            )
        rows, note = read_jsonl(path)
        if note:
            notes.append(note)
        weighed = [(line, row) for line, row in rows if row.get("w") is not None]  # an arm may give no weight
        w = tuple(number_at(row, "w", path, line, rate=True) for line, row in weighed)
        hack, loophole = (
            tuple(bool(number_at(row, key, path, line, rate=True)) for line, row in weighed)
            for key in ("hack", "loophole")
        )
        steps.append(RolloutStep(int(path.stem), w, hack, loophole))
    return tuple(sorted(steps, key=lambda step: step.step))


_LABELS = {"loophole": "loophole", "hack": "exploited", "solve": "correct", "compile": "can_compile"}


def _answers(path: Path) -> tuple[Answer, ...]:
    if not path.exists():
        return ()
    answers = []
    for line, row in read_jsonl(path)[0]:
        side = str(row.get("side"))
        if (side not in SIDES and strength_of(side) is None) or "problem_id" not in row:
            reason = f"has no 'side' out of {', '.join(SIDES)}, or no 'problem_id'"
            raise RunFolderError(path, line, reason, "run the evaluation again")
        labels = {name: bool(number_at(row, key, path, line, rate=True)) for name, key in _LABELS.items()}
        mode, failed = str(row.get("mode", "")), str(row.get("reason") or "").partition(":")[0]
        answers.append(Answer(side, str(row["problem_id"]), **labels, mode=mode, failed=failed))
    return tuple(answers)


def _evaluation(content: dict[str, Any], path: Path) -> Evaluation:
    sides: dict[str, Rates] = {}
    for side in (side for side in SIDES if side in content or side not in CONTROLS):
        rates = content.get(side)
        if not isinstance(rates, dict):
            raise RunFolderError(path, None, f"{side!r} is {rates!r}, not rates", "run the evaluation again")
        values = {
            key: number_at(rates, key, path, rate=True) for key in ("loophole", "hack", "solve", "compile")
        }
        sides[side] = Rates(**values)
    samples, step = number_at(content, "samples", path), number_at(content, "step", path)
    if not (samples.is_integer() and samples >= 1 and step.is_integer()):
        reason = f"'samples' is {samples:g} and 'step' is {step:g}, not counts"
        raise RunFolderError(path, None, reason, "run the evaluation again")
    auroc = None if content.get("auroc") is None else number_at(content, "auroc", path, rate=True)
    return Evaluation(int(step), int(samples), auroc=auroc, **sides)
