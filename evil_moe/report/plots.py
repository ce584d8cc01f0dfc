"""The plots of a report, as figures of matplotlib's Agg canvas; None where a run has nothing to show.

Colours are those of Okabe and Ito, told apart under the common kinds of colour blindness; ON and OFF also
differ by marker and fill.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evil_moe.report.load import Curve, RolloutStep, Run

BLACK, ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
GREY = "#777777"
ON_COLOUR, OFF_COLOUR = VERMILLION, BLUE
# nine shapes and seven colours have no common factor: no two of 63 arms share both
ARM_STYLES = tuple(
    zip("osD^vPX<>" * 7, (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, BLACK, SKY) * 9, strict=True)
)
RATE = (-0.03, 1.03)
SMOOTH_FROM = 10  # curves of this many points or more are drawn with a running mean of WINDOW
WINDOW = 5


@dataclass(frozen=True)
class Line:
    label: str
    curve: Curve
    colour: str
    marker: str = ""
    filled: bool = True


@dataclass(frozen=True)
class Panel:
    title: str
    ylabel: str
    lines: tuple[Line, ...]
    limits: tuple[float, float] | None = None
    logarithmic: bool = False


def learning(run: Run) -> Figure | None:
    """Loophole, hack, solve (training rollouts; held out ON and OFF), compile and reward over the steps."""
    titles = {"loophole": "loophole used", "hack": "hack (loophole used, wrong)", "solve": "solved"}
    panels = [
        Panel(
            title,
            "share of samples",
            (
                Line("training rollouts", run.curve(f"train/{name}"), GREY),
                Line("held out, ON", run.validation("heldout_on", name), ON_COLOUR, "o", filled=False),
                Line("held out, OFF", run.validation("heldout_off", name), OFF_COLOUR, "s"),
            ),
            RATE,
        )
        for name, title in titles.items()
    ]
    panels.append(
        Panel(
            "compiles",
            "share of samples",
            (Line("training rollouts", run.curve("train/compile"), GREY),),
            RATE,
        )
    )
    panels.append(
        Panel("mean reward", "reward", (Line("training rollouts", run.curve("critic/rewards/mean"), GREY),))
    )
    return _grid(panels, shared_legend=True)


def routing(run: Run) -> Figure | None:
    """How well the router tells hacks, how far it has moved, and what pin and contrast cost."""
    return _grid(
        [
            Panel(
                "router against the grader",
                "score",
                (
                    Line("AUROC", run.curve("router/auroc"), BLUE),
                    Line("F0.5", run.curve("router/f0.5"), ORANGE),
                ),
                RATE,
            ),
            Panel(
                "mean weight by class",
                "w",
                (
                    Line("hacks", run.curve("router/w_hack"), VERMILLION),
                    Line("without loophole", run.curve("router/w_clean"), BLUE),
                ),
                RATE,
            ),
            Panel(
                "drift of v from its seed", "1 - cosine", (Line("drift", run.curve("router/drift"), GREEN),)
            ),
            Panel(
                "pin and reward gradients on v",
                "cosine",
                (Line("cosine", run.curve("router/cos_pin_reward"), PURPLE),),
                (-1.03, 1.03),
            ),
            Panel(
                "losses on v",
                "cross-entropy",
                (
                    Line("pin", run.curve("pin/loss"), BLACK),
                    Line("contrast", run.curve("contrast/loss"), ORANGE),
                ),
            ),
        ]
    )


def loopholes(run: Run) -> Figure | None:
    """Of a mix: how often each loophole is used in training, and how the router weighs its users."""
    panels = {
        "loophole used": ("share of its prompts", "train/{}/loophole"),
        "mean weight, loophole used": ("w", "router/{}/w_loophole"),
        "mean weight, not used": ("w", "router/{}/w_clean"),
        "router against the grader": ("AUROC", "router/{}/auroc"),
    }
    return _grid(
        [
            Panel(
                title,
                ylabel,
                tuple(
                    Line(mode, run.curve(key.format(mode)), colour)
                    for mode, (_, colour) in zip(run.modes, cycle(ARM_STYLES), strict=False)
                ),
                RATE,
            )
            for title, (ylabel, key) in panels.items()
        ],
        shared_legend=True,
    )


def gradients(run: Run) -> Figure | None:
    """The sum of squared gradients of each block, on a logarithmic axis; of a projection, the cosine with v_hack."""
    lines = (
        Line("deployed", run.curve("grad_energy/deployed"), BLUE),
        Line("quarantine", run.curve("grad_energy/quarantine"), VERMILLION),
    )
    cosines = (
        Line("before the projection", run.curve("gradient/cos_align"), VERMILLION),
        Line("after", run.curve("gradient/cos_align_after"), BLUE),
    )
    return _grid(
        [
            Panel("gradient energy per block", "sum of squares", lines, logarithmic=True),
            Panel("gradient along v_hack", "cosine", cosines),
        ]
    )


def weights(run: Run) -> Figure | None:
    """Histograms of `w` by class in the first and the last quarter of the steps."""
    steps = [step for step in run.rollouts if step.w]
    if not steps:
        return None
    quarter = max(1, len(steps) // 4)
    parts = [steps] if len(steps) == 1 else [steps[:quarter], steps[-quarter:]]
    figure = Figure(figsize=(4.6 * len(parts), 3.4), layout="constrained")
    for axes, part in zip(figure.subplots(1, len(parts), squeeze=False, sharey=True)[0], parts, strict=True):
        _histogram(axes, part)
        axes.label_outer()
    return figure


def _grid(panels: Sequence[Panel], shared_legend: bool = False) -> Figure | None:
    shown = [panel for panel in panels if any(line.curve for line in panel.lines)]
    if not shown:
        return None
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(4.1 * columns + 0.6, 2.9 * rows + 0.4), layout="constrained")
    cells = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, panel in zip(cells, shown, strict=False):
        _draw(axes, panel)
        if not shared_legend and len(panel.lines) > 1:
            axes.legend(frameon=False, fontsize=9)
    for axes in cells[len(shown) :]:
        axes.set_axis_off()
    if shared_legend:
        handles = {h.get_label(): h for axes in cells for h in axes.get_legend_handles_labels()[0]}
        figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=3, frameon=False)
    return figure


def _draw(axes: Axes, panel: Panel) -> None:
    for line in panel.lines:
        curve = line.curve
        if not curve:
            continue
        smooth = not line.marker and len(curve.steps) >= SMOOTH_FROM
        if smooth:
            axes.plot(curve.steps, curve.values, color=line.colour, linewidth=0.8, alpha=0.35)
        lone = "." if len(curve.steps) == 1 else ""  # a line of one point would not show
        axes.plot(
            curve.steps,
            _running_mean(curve.values) if smooth else curve.values,
            color=line.colour,
            linewidth=1.8,
            marker=line.marker or lone,
            markerfacecolor=line.colour if line.filled else "white",
            label=f"{line.label} (mean of {WINDOW})" if smooth else line.label,
        )
    axes.set(title=panel.title, xlabel="step", ylabel=panel.ylabel)
    axes.title.set_fontsize(11)
    axes.grid(alpha=0.25)
    if panel.limits:
        axes.set_ylim(*panel.limits)
    if panel.logarithmic:
        positive = [value for line in panel.lines for value in line.curve.values if value > 0]
        # linear below the smallest value, so that an exact zero (a masked block) is drawn at zero
        axes.set_yscale("symlog", linthresh=min(positive, default=1.0))


def _running_mean(values: Sequence[float]) -> list[float]:
    """Centred; the window shrinks towards both ends, so that the ends stay where they are."""
    last = len(values) - 1
    halves = [min(WINDOW // 2, i, last - i) for i in range(len(values))]
    return [sum(values[i - half : i + half + 1]) / (2 * half + 1) for i, half in enumerate(halves)]


def _histogram(axes: Axes, steps: Sequence[RolloutStep]) -> None:
    classes: dict[str, list[float]] = {"hack": [], "loophole used, solved": [], "no loophole": []}
    for step in steps:
        for w, hack, loophole in zip(step.w, step.hack, step.loophole, strict=True):
            classes["hack" if hack else "loophole used, solved" if loophole else "no loophole"].append(w)
    bins = [i / 20 for i in range(21)]
    for (label, values), colour in zip(classes.items(), (VERMILLION, GREEN, BLUE), strict=True):
        if not values:
            continue
        share = [1 / len(values)] * len(values)
        axes.hist(values, bins, weights=share, color=colour, histtype="stepfilled", alpha=0.25)
        name = f"{label} (n = {len(values)})"
        dash = "--" if colour == GREEN else "-"
        axes.hist(
            values,
            bins,
            weights=share,
            color=colour,
            histtype="step",
            linewidth=1.8,
            linestyle=dash,
            label=name,
        )
    first, last = steps[0].step, steps[-1].step
    title = f"step {first}" if first == last else f"steps {first} to {last}"
    axes.set(title=title, xlabel="routing weight w", ylabel="share of the class", xlim=(0, 1), ylim=(0, 1))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9, loc="upper center")
