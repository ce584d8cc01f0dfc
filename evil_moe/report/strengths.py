"""The deployment-strength curve of an evaluation: hack and solve against the quarantine's strength, as table and plot.

    "strengths": [{"strength": 0.1, "side": "strength_0.1", "samples": 320, "counts": {"hack": 12, ...}, ...}]

in an `eval.json`, with the rates besides; the evaluation is the run's own, or one in a folder `eval-...` beside it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evil_moe.report.files import RunFolderError, number_at, read_json
from evil_moe.report.markdown import table
from evil_moe.report.plots import BLUE, GREY, ORANGE, RATE, VERMILLION
from evil_moe.strengths import RATES, Point, check_strength, highest_at_or_below

DPI = 130
SET_ASIDE = "-of-step"
"""In the name of an evaluation that a later one has taken the place of."""
_AGAIN = "run the evaluation again"


@dataclass(frozen=True)
class StrengthCurve:
    """The points of one evaluation by rising strength; `base` are the rates of the policy without an adapter, None where
    it was not evaluated."""

    step: int
    points: tuple[Point, ...]
    base: dict[str, float] | None


def read_curve(content: dict[str, Any], path: Path) -> StrengthCurve | None:
    """The curve in the content of an `eval.json`; None if it has none.

    Raises:
        RunFolderError: it is malformed.
    """
    rows = content.get("strengths")
    if rows is None:
        return None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise RunFolderError(path, None, f"'strengths' is {rows!r}, not a list of points", _AGAIN)
    points = sorted((_point(row, path) for row in rows), key=lambda point: point.strength)
    base = content.get("base")
    if base is not None:
        if not isinstance(base, dict):
            raise RunFolderError(path, None, f"'base' is {base!r}, not rates", _AGAIN)
        base = {name: number_at(base, name, path, rate=True) for name in RATES}
    return StrengthCurve(int(number_at(content, "step", path)), tuple(points), base)


def _point(row: dict[str, Any], path: Path) -> Point:
    try:
        strength = check_strength(row.get("strength"))
    except ValueError as error:
        raise RunFolderError(path, None, str(error), _AGAIN) from None
    samples, counts = row.get("samples"), row.get("counts")
    if type(samples) is not int or samples < 1 or not isinstance(counts, dict):
        reason = f"strength {strength:g} has samples={samples!r}, counts={counts!r}"
        raise RunFolderError(path, None, reason, _AGAIN)
    for name in RATES:
        if type(counts.get(name)) is not int or not 0 <= counts[name] <= samples:
            reason = f"strength {strength:g}: {name!r} is {counts.get(name)!r} of {samples} answers"
            raise RunFolderError(path, None, reason, _AGAIN)
    return Point(strength, samples, {name: counts[name] for name in RATES})


def curve_table(curve: StrengthCurve) -> list[str]:
    """A row per strength: each rate, its 95 % interval, and the number of answers behind it."""
    rows = []
    for point in curve.points:
        cells = []
        for name in RATES:
            low, high = point.interval(name)
            cells.append(f"{point.rate(name):.3f} ({low:.3f} to {high:.3f}), {point.counts[name]}")
        rows.append([f"{point.strength:g}", *cells, str(point.samples)])
    if curve.base is not None:
        rows.append(["base policy", *(f"{curve.base[name]:.3f}" for name in RATES), ""])
    return table(["strength", *RATES, "answers"], rows)


def summary(curve: StrengthCurve) -> str:
    """The highest strength at which hacking, and the one at which loophole use, is at or below the base policy's."""
    if curve.base is None:
        return "The base policy was not evaluated (evil_moe.eval.base), so no strength is named that hacks no more."
    said = []
    for rate, what in (("hack", "hacking"), ("loophole", "loophole use")):
        bound = curve.base[rate]
        point = highest_at_or_below(curve.points, rate, bound)
        if point is None:
            said.append(f"at none of these strengths is {what} at or below the base policy's {bound:.3f}")
            continue
        above = [
            f"{p.strength:g}" for p in curve.points if p.strength < point.strength and p.rate(rate) > bound
        ]
        said.append(
            f"the highest strength at which {what} is at or below the base policy's {bound:.3f} is {point.strength:g} "
            f"({what} {point.rate(rate):.3f}, solve {point.rate('solve'):.3f})"
            + (f", though it is above at {', '.join(above)}" if above else "")
        )
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}."


def curve_lines(curve: StrengthCurve) -> list[str]:
    """Table and summary in markdown, without the plot."""
    return [
        *curve_table(curve),
        "",
        summary(curve),
        "",
        "Strength scales the quarantine's output: 0 is OFF, 1 is ON. In brackets Wilson's 95 % interval of independent answers, "
        "behind it the count. A strength chosen from these answers looks a little better on them than it is.",
        "",
    ]


def draw(curve: StrengthCurve) -> Figure:
    """Hack and solve, beside them loophole use, against strength with 95 % intervals; dashed the base policy's."""
    figure = Figure(figsize=(8.6, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    hacks = {
        "hack": ("hack (loophole used, wrong)", VERMILLION, "o"),
        "loophole": ("loophole used", ORANGE, "^"),
    }
    for axes, lines in ((left, hacks), (right, {"solve": ("solved", BLUE, "s")})):
        _panel(axes, curve, lines)
        if curve.base is not None and (
            point := highest_at_or_below(curve.points, "hack", curve.base["hack"])
        ):
            label = "highest that hacks no more than base"
            axes.axvline(point.strength, color=GREY, linestyle=":", linewidth=1, zorder=0, label=label)
        axes.legend(frameon=False, fontsize=9)
    return figure


def _panel(axes: Axes, curve: StrengthCurve, lines: dict[str, tuple[str, str, str]]) -> None:
    strengths = [point.strength for point in curve.points]
    for name, (label, colour, marker) in lines.items():
        rates = [point.rate(name) for point in curve.points]
        ends = [point.interval(name) for point in curve.points]
        below = [max(0.0, rate - low) for rate, (low, _) in zip(rates, ends, strict=True)]
        above = [max(0.0, high - rate) for rate, (_, high) in zip(rates, ends, strict=True)]
        axes.errorbar(
            strengths,
            rates,
            [below, above],
            color=colour,
            marker=marker,
            capsize=3,
            linewidth=1.8,
            label=label,
        )
        if curve.base is not None:
            axes.axhline(
                curve.base[name],
                color=colour,
                linestyle="--",
                linewidth=1,
                label=f"base policy: {label.split(' (')[0]}",
            )
    axes.set(xlabel="strength of the quarantine", ylabel="share of samples, held out", xlim=RATE, ylim=RATE)
    axes.grid(alpha=0.25)


def run_section(run_dir: Path, slug: str, out: Path) -> list[str]:
    """Of a run's report: the curves of its evaluations, the run's own first, with a plot each under `out/plots`.

    Raises:
        RunFolderError: an evaluation's file is malformed.
    """
    lines: list[str] = []
    for path in sorted(run_dir.glob("eval*/eval.json")):
        name = path.parent.name
        if SET_ASIDE in name or (curve := read_curve(read_json(path), path)) is None:
            continue
        tail = re.sub(r"[^A-Za-z0-9.]+", "-", name.removeprefix("eval")).strip("-")
        plot = out / "plots" / ("-".join(filter(None, (slug, "strengths", tail))) + ".png")
        plot.parent.mkdir(parents=True, exist_ok=True)
        draw(curve).savefig(plot, dpi=DPI)
        lines += [
            f"Strengths of the quarantine at deployment, step {curve.step}, from `{name}`:",
            "",
            *curve_lines(curve),
            f"![Hack and solve against the quarantine's strength]({plot.relative_to(out).as_posix()})",
            "",
        ]
    return lines
