"""The plot of `evil-moe pairs check`: held-out margins, layers, steering."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evil_moe.direction_checks import DirectionChecks
from evil_moe.eyes import EyeRow
from evil_moe.report.plots import BLUE, GREY, RATE, VERMILLION

DPI = 130


def draw(checks: DirectionChecks, steering: Sequence[Any], path: Path, eyes: Sequence[EyeRow] = ()) -> None:
    """Write the figure; `steering` are the results of `pairs_steering`, `eyes` the rows of that table, perhaps
    none of either."""
    number = 2 + bool(eyes) + bool(steering)
    figure = Figure(figsize=(4.3 * number, 3.4), layout="constrained")
    cells = list(figure.subplots(1, number, squeeze=False)[0])
    _margins(cells[0], checks)
    _layers(cells[1], checks)
    if eyes:
        _eyes(cells[2], eyes)
    if steering:
        _steering(cells[-1], steering)
    figure.savefig(path, dpi=DPI)


def _eyes(axes: Axes, rows: Sequence[EyeRow]) -> None:
    """One line per eye over its kinds of replies would be a tangle: dots, the worst of each row filled."""
    for place, row in enumerate(rows):
        values = sorted(row.auroc.values())
        axes.plot(values[1:], [place] * (len(values) - 1), "o", color=BLUE, alpha=0.5, mfc="none")
        axes.plot(values[:1], [place], "o", color=VERMILLION)
        if row.pinned:
            axes.plot([row.worst_pinned], [place], "x", color=VERMILLION)
    axes.set_yticks(range(len(rows)), [str(row.eye) for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0.5, color=GREY, linestyle=":")
    axes.set(
        title="AUROC by eye, each kind of reply",
        xlabel="AUROC; filled: the worst kind, x: after the pin",
        xlim=RATE,
    )
    axes.grid(alpha=0.25)


def _margins(axes: Axes, checks: DirectionChecks) -> None:
    held_out = checks.held_out
    for values, colour, label in ((held_out.hack, VERMILLION, "hack"), (held_out.clean, BLUE, "clean")):
        axes.hist(values, bins=16, color=colour, alpha=0.5, label=label)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set(
        title=f"held-out margins, accuracy {held_out.accuracy:.2f}",
        xlabel="score - threshold",
        ylabel="sides",
    )
    axes.legend(frameon=False, fontsize=9)


def _layers(axes: Axes, checks: DirectionChecks) -> None:
    layers = list(checks.layers)
    axes.plot(layers, [f.accuracy for f in checks.layers.values()], "o-", color=VERMILLION, label="accuracy")
    axes.plot(layers, [f.auroc for f in checks.layers.values()], "s--", color=BLUE, label="AUROC")
    axes.axhline(checks.random_accuracy.high, color=GREY, linestyle=":", label="95 % of random directions")
    axes.set(title="one layer alone, held out", xlabel="layer", ylim=RATE)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9)


def _steering(axes: Axes, steering: Sequence[Any]) -> None:
    base = [result for result in steering if result.alpha == 0]
    for along, colour, marker in (("v", VERMILLION, "o"), ("random", GREY, "s")):
        shown = sorted(base + [r for r in steering if r.along == along and r.alpha], key=lambda r: r.alpha)
        alphas = [r.alpha for r in shown]
        axes.plot(
            alphas,
            [r.rates["loophole"] for r in shown],
            f"{marker}-",
            color=colour,
            label=f"loophole, {along}",
        )
        axes.plot(
            alphas,
            [r.rates["compile"] for r in shown],
            f"{marker}:",
            color=colour,
            alpha=0.5,
            label=f"compile, {along}",
        )
    axes.set(title="steering the base policy", xlabel="alpha", ylim=RATE)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9)
