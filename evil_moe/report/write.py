"""Writes `report.md` and its plots, for one run or for several arms and seeds."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from evil_moe.report import compare, legit, plots, scatter, strengths
from evil_moe.report.compare import RATES, REFERENCE_ARM
from evil_moe.report.load import Evaluation, Run, load_run
from evil_moe.report.markdown import table
from evil_moe.report.prereg import Prereg, answer, load_prereg
from evil_moe.sides import ABLATION

PHASES = {
    "generation": "timing_s/gen",
    "grading": "timing_s/reward",
    "log-probs": "timing_s/old_log_prob",
    "update": "timing_s/update_actor",
}
RUN_PLOTS = {
    "learning": ("Training and held-out curves", plots.learning),
    "weights": ("Routing weights by class, first and last quarter of the steps", plots.weights),
    "routing": ("Router and pin", plots.routing),
    "gradients": ("Gradient energy per block", plots.gradients),
}
MIX_PLOTS = {"loopholes": ("Loopholes one by one", plots.loopholes)}
DPI = 130
MAX_PROVENANCE_CHARS = 160


def write_report(
    run_dirs: Sequence[str | Path],
    out: str | Path,
    prereg: str | Path | None = None,
    reference: str | None = None,
) -> Path:
    """Reads the run folders and writes `out/report.md` and `out/plots/*.png`; returns the path of the report.

    `prereg` is a file of hypotheses to answer, from the runs of the preset it is named after, or from those of each preset
    if it is named after none of them; `reference` the arm that all others are tested against, by default the router.

    Raises:
        ValueError: no run is given, two of them have the same preset, arm and seed, or `out` is a file.
        RunFolderError: a run folder or the prereg file is malformed.
    """
    hypotheses = None if prereg is None else load_prereg(Path(prereg))
    out = Path(out)
    if out.is_file():
        raise ValueError(f"out is the file {out}: name a folder, report.md is written into it")
    runs = [load_run(path) for path in run_dirs]
    if not runs:
        raise ValueError("run_dirs is empty: name at least one run folder")
    first: dict[tuple[str, str, int], Run] = {}
    for run in runs:
        other = first.setdefault((run.preset, run.arm, run.seed), run)
        if other is not run:
            raise ValueError(f"{other.path} and {run.path} are both {run.name}: name one of the two")
    runs.sort(key=lambda run: (run.preset, run.arm, run.seed))
    (out / "plots").mkdir(parents=True, exist_ok=True)
    lines = ["# Evil MoE report", ""]
    if len(runs) > 1:
        lines += _comparison(runs, out, reference or REFERENCE_ARM)
    if hypotheses is not None:
        lines += _hypotheses(hypotheses, runs)
    if len(runs) > 1:
        lines += _one_by_one(runs)
    for run in runs:
        lines += _run_section(run, out)
    report = out / "report.md"
    report.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return report


def _comparison(runs: Sequence[Run], out: Path, reference: str) -> list[str]:
    """Arms over seeds, their costs, routers and tests."""
    lines = [
        "## Arms",
        "",
        "Held-out rates with the whole adapter (ON) and with the quarantine reset (OFF): mean over seeds ± standard "
        "deviation between them. An arm without a gate deploys its whole adapter: its ON is what counts, and its OFF says "
        "what half of it carries.",
        "",
        *compare.arm_table(runs),
        "",
        *_image(scatter.arms(runs), "Hack against solve, held out", "arms", out),
        *compare.cost_table(runs),
        "",
    ]
    if differences := compare.unlike(runs):
        lines += ["These runs differ in more than arm and seed:", "", *differences, ""]
    if router := compare.router_table(runs):
        what = f"Router on the training rollouts of each run's last {compare.LAST_STEPS} steps, by the grader's labels:"
        lines += [what, "", *router, ""]
    if tests := compare.test_table(runs, reference):
        lines += [
            "Paired over seeds and problems: sign-flip permutation test, two-sided, not corrected for their number. "
            "`deployed` takes of each arm the side that it deploys. "
            "Problems of one seed share a policy, so p is about these policies rather than about all seeds.",
            "",
            *tests,
            "",
        ]
    return lines


def _one_by_one(runs: Sequence[Run]) -> list[str]:
    rows = [[run.preset, run.arm, str(run.seed), *_cells(run.evaluation)] for run in runs]
    head = ["preset", "arm", "seed", *(f"{side} {name}" for side in ("ON", "OFF") for name in RATES)]
    return ["## Runs", "", *table(head, rows), ""]


def _hypotheses(prereg: Prereg, runs: Sequence[Run]) -> list[str]:
    """Each hypothesis with its answer, preset by preset, and whether the runs knew it before they started."""
    lines = ["## Hypotheses", "", f"From `{prereg.path.name}`, sha256 {prereg.sha256[:12]}.", ""]
    there = sorted({run.preset for run in runs})
    presets = [prereg.path.stem] if prereg.path.stem in there else there
    for preset in presets:
        ours = [run for run in runs if run.preset == preset]
        arms = {arm: members for (_, arm), members in compare.by_arm(ours).items()}
        if len(there) > 1:
            lines += [f"Runs of the preset {preset}:", ""]
        late = [run.name for run in ours if _prereg_at_start(run) != prereg.sha256]
        lines += [
            f"Not stated in this form before these runs started: {'; '.join(late)}."
            if late
            else "All runs recorded this file's hash when they started.",
            "",
        ]
        rows = [[h.id, h.says, *reversed(answer(h, arms))] for h in prereg.hypotheses]
        lines += [*table(["id", "hypothesis", "measured", "verdict"], rows), ""]
    return lines


def _prereg_at_start(run: Run) -> str | None:
    starts = run.provenance.get("starts") or [{}]
    found = starts[0].get("prereg")
    return found if isinstance(found, str) else None


def _run_section(run: Run, out: Path) -> list[str]:
    lines = [f"## {run.name}", "", *_ablation(run.evaluation), *_by_loophole(run)]
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", f"{run.preset}-{run.arm}-s{run.seed}")
    lines += [
        *legit.run_section(run.path),
        *_failures(run),
        *strengths.run_section(run.path, slug, out),
        *_step_time(run),
    ]
    absent = []
    for plot, (title, draw) in (RUN_PLOTS | (MIX_PLOTS if run.modes else {})).items():
        image = _image(draw(run), title, f"{slug}-{plot}", out)
        lines += image
        if not image:
            absent.append(title.lower())
    notes = list(run.notes)
    if absent:
        notes.append(f"Nothing was logged for: {'; '.join(absent)}.")
    if notes:
        lines += ["Notes:", "", *(f"- {note}" for note in notes), ""]
    rows = [[key, value] for key, value in _flat(run.provenance)]
    if rows:
        lines += [
            "<details><summary>Provenance</summary>",
            "",
            *table(["key", "value"], rows),
            "",
            "</details>",
            "",
        ]
    return lines


def _ablation(evaluation: Evaluation | None) -> list[str]:
    if evaluation is None:
        return ["Not evaluated yet: there is no `eval/eval.json`.", ""]
    on, off, n = evaluation.on, evaluation.off, evaluation.samples
    sides = {"ON": on, "OFF": off}
    if evaluation.random_block is not None:
        sides["random block reset"] = evaluation.random_block
    if evaluation.base is not None:
        sides["base policy"] = evaluation.base
    rows = []
    for name in RATES:
        values = [getattr(rates, name) for rates in sides.values()]
        rows.append([name, *(f"{p:.3f} ± {math.sqrt(p * (1 - p) / n):.3f}" for p in values)])
    auroc = (
        []
        if evaluation.auroc is None
        else [f"Router AUROC on the held-out samples: {evaluation.auroc:.3f}.", ""]
    )
    return [
        f"Evil MoE causal ablation: deploy hack {on.hack:.3f} (ON) -> {off.hack:.3f} (OFF)",
        "",
        *table(["held out", *sides], rows),
        "",
        f"Step {evaluation.step}, {n} samples a side; ± is the standard error of independent samples. A "
        "model that no longer solves or compiles does not hack either: read hack beside the other rows.",
        "",
        *auroc,
    ]


def _by_loophole(run: Run) -> list[str]:
    """Held-out rates on the problems of each loophole of a mix."""
    modes = sorted({answer.mode for answer in run.answers})
    if len(modes) < 2:
        return []
    columns = [(side, name) for side in ABLATION for name in RATES]
    rows = []
    for mode in modes:
        cells = []
        for side, name in columns:
            ours = [a for a in run.answers if (a.mode, a.side) == (mode, side)]
            cells.append(f"{fmean(getattr(a, name) for a in ours):.3f}" if ours else "-")
        rows.append([mode, *cells])
    return [*table(["loophole of the problem", *(f"{s.upper()} {name}" for s, name in columns)], rows), ""]


def _failures(run: Run) -> list[str]:
    """Why the held-out answers that are not correct are not, as shares of all answers of a side."""
    kinds = sorted({answer.failed for answer in run.answers} - {""})
    if not kinds:
        return []
    rows = []
    for side in ABLATION:
        ours = [answer.failed for answer in run.answers if answer.side == side]
        if ours:
            rows.append([side.upper(), *(f"{ours.count(kind) / len(ours):.3f}" for kind in kinds)])
    return [*table(["not correct because", *kinds], rows), ""]


def _step_time(run: Run) -> list[str]:
    """Where the time of a step goes, summed over the logged steps."""
    whole = sum(run.curve("timing_s/step").values)
    if not whole:
        return []
    steps = len(run.curve("timing_s/step").steps)
    rows, named = [], 0.0
    for phase, key in PHASES.items():
        seconds = sum(run.curve(key).values)
        named += seconds
        logged = bool(run.curve(key))
        rows.append(
            [phase, *((f"{seconds / steps:.2f}", f"{seconds / whole:.0%}") if logged else ("-", "-"))]
        )
    overlap = named > whole
    if not overlap:
        rows.append(["everything else", f"{(whole - named) / steps:.2f}", f"{(whole - named) / whole:.0%}"])
    rows.append(["step", f"{whole / steps:.2f}", "100%"])
    remark = ["The phases overlap in time: their shares add up to more than the step.", ""] if overlap else []
    return [*table(["phase", "seconds a step", "share"], rows), "", *remark]


def _image(figure: Figure | None, title: str, slug: str, out: Path) -> list[str]:
    if figure is None:
        return []
    path = out / "plots" / f"{slug}.png"
    figure.savefig(path, dpi=DPI)
    return [f"![{title}]({path.relative_to(out).as_posix()})", ""]


def _values(evaluation: Evaluation) -> list[float]:
    return [getattr(side, name) for side in (evaluation.on, evaluation.off) for name in RATES]


def _cells(evaluation: Evaluation | None) -> list[str]:
    return ["-"] * 2 * len(RATES) if evaluation is None else [f"{value:.3f}" for value in _values(evaluation)]


def _flat(content: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested keys joined by dots, long values cut."""
    flat = []
    for key, value in content.items():
        if isinstance(value, dict):
            flat += _flat(value, f"{prefix}{key}.")
        else:
            text = " ".join(str(value).split())
            cut = text if len(text) <= MAX_PROVENANCE_CHARS else text[:MAX_PROVENANCE_CHARS] + " ..."
            flat.append((f"{prefix}{key}", cut))
    return flat
