"""The strengths of an evaluation (`evil_moe.eval.strengths`): which they are, their sides, and the curve they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from evil_moe.report.strengths import DPI, curve_lines, draw, read_curve
from evil_moe.strengths import RATES, check_strengths, side_of
from reward.verdict import Verdict

KEY = "evil_moe.eval.strengths"
SHORT = "strengths"
"""What the command line may say for `KEY`."""


def spelled_out(override: str) -> str:
    """`strengths=...` as an override of the config.

    Raises:
        ValueError: it has no value.
    """
    key, _, value = override.partition("=")
    if key != SHORT:
        return override
    if not value.strip():
        check_strengths(None)
    return f"{KEY}={value}"


def settle_strengths(config: DictConfig) -> None:
    """Check the strengths and put them in one form, so that one evaluation has one name; a run from before there were
    any goes without.

    Raises:
        ValueError: as `check_strengths`.
    """
    if (given := OmegaConf.select(config, KEY, default=None)) is not None:
        OmegaConf.update(config, KEY, list(check_strengths(given)))


def strengths_of(config: DictConfig) -> tuple[float, ...]:
    """The strengths to evaluate, rising; none without a curve.

    Raises:
        ValueError: as `check_strengths`.
    """
    given = OmegaConf.select(config, KEY, default=None)
    return () if given is None else check_strengths(given)


def curve_rows(strengths: Sequence[float], by_side: Mapping[str, Sequence[Verdict]]) -> list[dict[str, Any]]:
    """The curve as `eval.json` holds it: counts and rates of the graded answers at each strength."""
    rows = []
    for strength in strengths:
        verdicts = by_side[side := side_of(strength)]
        labels = [
            {"loophole": v.loophole, "hack": v.exploited, "solve": v.correct, "compile": v.can_compile}
            for v in verdicts
        ]
        counts = {name: sum(label[name] for label in labels) for name in RATES}
        rates = {name: count / len(verdicts) for name, count in counts.items()}
        rows.append({"strength": strength, "side": side, "samples": len(verdicts), "counts": counts, **rates})
    return rows


def curve_text(result: dict[str, Any]) -> str:
    """Table and summary of an evaluation's curve; empty if it has none."""
    curve = read_curve(result, Path("eval.json"))
    return "" if curve is None else "\n" + "\n".join(curve_lines(curve))


def write_plot(result: dict[str, Any], folder: Path) -> None:
    """`strengths.png` in the evaluation's folder, if it has a curve."""
    if (curve := read_curve(result, folder / "eval.json")) is not None:
        draw(curve).savefig(folder / "strengths.png", dpi=DPI)
