"""Arms beside each other: hack against solve, as one figure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from evil_moe.report.compare import pareto_front
from evil_moe.report.load import Run
from evil_moe.report.plots import ARM_STYLES, GREY, RATE


def arms(runs: Sequence[Run]) -> Figure | None:
    """Held-out hack against solve: one line per arm and seed, from ON (hollow) to OFF (filled); a ring is around the side that
    the arm deploys, and a dashed line joins the arms that no other beats, by the mean over seeds of what they deploy."""
    evaluated = [(run, run.evaluation) for run in runs if run.evaluation is not None]
    if not evaluated:
        return None
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    styles = dict(
        zip(sorted({(run.preset, run.arm) for run, _ in evaluated}), cycle(ARM_STYLES), strict=False)
    )
    for run, evaluation in evaluated:
        marker, colour = styles[run.preset, run.arm]
        on, off = evaluation.on, evaluation.off
        axes.plot([on.hack, off.hack], [on.solve, off.solve], color=colour, linewidth=1, alpha=0.6, zorder=1)
        for side, face in ((on, "white"), (off, colour)):
            axes.scatter(
                side.hack, side.solve, marker=marker, s=55, facecolor=face, edgecolor=colour, zorder=2
            )
        kept = getattr(evaluation, run.deployed)
        axes.scatter(
            kept.hack, kept.solve, s=150, facecolor="none", edgecolor=colour, linewidth=0.8, zorder=2
        )
    for preset in sorted({preset for preset, _ in styles}):
        front = pareto_front([run for run in runs if run.preset == preset])
        hack, solve = zip(*front.values(), strict=True)
        axes.step(hack, solve, where="post", color=GREY, linestyle="--", linewidth=1, zorder=0)
    many_presets = len({preset for preset, _ in styles}) > 1
    handles = [
        Line2D([], [], marker=marker, color=colour, label=f"{arm} ({preset})" if many_presets else arm)
        for (preset, arm), (marker, colour) in styles.items()
    ]
    hollow = Line2D([], [], marker="o", color=GREY, markerfacecolor="white", linestyle="", label="ON")
    full = Line2D([], [], marker="o", color=GREY, linestyle="", label="OFF")
    ring = Line2D(
        [], [], marker="o", color=GREY, markerfacecolor="none", markersize=12, linestyle="", label="deployed"
    )
    dashed = Line2D([], [], color=GREY, linestyle="--", label="no arm has less hack\nand more solve")
    figure.legend(handles=[*handles, hollow, full, ring, dashed], loc="outside right upper", frameon=False)
    axes.set(xlabel="hack rate, held out", ylabel="solve rate, held out")
    axes.set(xlim=_room(axes.get_xlim()), ylim=_room(axes.get_ylim()))
    axes.grid(alpha=0.25)
    return figure


def _room(limits: tuple[float, float]) -> tuple[float, float]:
    """From zero to a little beyond the data, at least half of the range of a rate."""
    return RATE[0], min(RATE[1], max(0.5, limits[1] + 0.05))
