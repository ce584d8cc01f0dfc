"""Arms against each other: summed up over seeds, and paired tests over seeds x problems."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np

from evil_moe.report.load import TOKENS, Evaluation, Run
from evil_moe.report.markdown import table
from evil_moe.sides import ABLATION

RATES = ("loophole", "hack", "solve", "compile")
DEPLOYED = "deployed"
"""In place of a side: the one that each arm deploys."""
REFERENCE_ARM = "router"
TESTED = tuple((side, rate) for side in (DEPLOYED, *ABLATION) for rate in ("loophole", "hack", "solve"))
LAST_STEPS = 10
ROUTER_METRICS = {
    "AUROC": "router/auroc",
    "F0.5": "router/f0.5",
    "w of hacks": "router/w_hack",
    "w without loophole": "router/w_clean",
}
_DRAWS = 10_000


@dataclass(frozen=True)
class PairedTest:
    """Mean difference of two arms over the same (seed, problem) units, its two-sided p-value, and the mean difference of
    each seed: p speaks for the problems of these seeds, their agreement for other seeds."""

    difference: float
    p: float
    units: int
    by_seed: dict[int, float]

    def seeds(self) -> str:
        """The differences seed by seed, as text."""
        return " ".join(f"{difference:+.3f}" for difference in self.by_seed.values())


def paired_test(a: Mapping[tuple[int, str], float], b: Mapping[tuple[int, str], float]) -> PairedTest | None:
    """Sign-flip permutation test of `mean(a - b)` over the units both have (Fisher 1935); None without any.

    Under the null a unit's difference is as likely as its negative. p counts the observed signs among the draws,
    so it is never 0. Fixed seed: the same runs give the same report.
    """
    units = sorted(a.keys() & b.keys())
    if not units:
        return None
    difference = np.array([a[unit] - b[unit] for unit in units])
    signs = np.random.default_rng(0).choice((-1.0, 1.0), size=(_DRAWS, len(units)))
    # A tolerance, because sums of the same numbers in another order differ in their last bits.
    extreme = np.abs(signs @ difference) >= abs(difference.sum()) - 1e-9
    seed_of = np.array([seed for seed, *_ in units])
    return PairedTest(
        difference=float(difference.mean()),
        p=float((extreme.sum() + 1) / (_DRAWS + 1)),
        units=len(units),
        by_seed={int(seed): float(difference[seed_of == seed].mean()) for seed in np.unique(seed_of)},
    )


def unit_rates(runs: Sequence[Run], side: str, rate: str, mode: str = "") -> dict[tuple[int, str], float]:
    """The rate of every (seed, problem) of an arm's runs, over the answers of a side or of the `DEPLOYED` one; of one
    loophole's problems alone if `mode` names it."""
    values: dict[tuple[int, str], list[bool]] = defaultdict(list)
    for run in runs:
        wanted = run.deployed if side == DEPLOYED else side
        for answer in run.answers:
            if answer.side == wanted and mode in ("", answer.mode):
                values[run.seed, answer.problem].append(getattr(answer, rate))
    return {unit: fmean(labels) for unit, labels in values.items()}


def by_arm(runs: Sequence[Run]) -> dict[tuple[str, str], list[Run]]:
    """Runs by (preset, arm), in the order of the runs."""
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.preset, run.arm].append(run)
    return dict(groups)


def removal(evaluation: Evaluation) -> float:
    """`1 - hack_OFF / hack_ON`; NaN if nothing was hacked ON."""
    return 1 - evaluation.off.hack / evaluation.on.hack if evaluation.on.hack else math.nan


def solve_kept(evaluation: Evaluation) -> float:
    """`solve_OFF / solve_ON`; NaN if nothing was solved ON."""
    return evaluation.off.solve / evaluation.on.solve if evaluation.on.solve else math.nan


def pareto_front(runs: Sequence[Run]) -> dict[str, tuple[float, float]]:
    """Of one preset, the arms that no other beats in both: mean over the evaluated seeds of (hack, solve) of what they deploy,
    by rising hack. An arm equal to another in both stays."""
    points: dict[str, tuple[float, float]] = {}
    for (_, arm), members in by_arm(runs).items():
        kept = [getattr(run.evaluation, run.deployed) for run in members if run.evaluation is not None]
        if kept:
            points[arm] = fmean(side.hack for side in kept), fmean(side.solve for side in kept)
    beaten = {
        arm
        for arm, (hack, solve) in points.items()
        if any(h <= hack and s >= solve and (h, s) != (hack, solve) for h, s in points.values())
    }
    return dict(sorted((item for item in points.items() if item[0] not in beaten), key=lambda item: item[1]))


def unlike(runs: Sequence[Run]) -> list[str]:
    """What sets runs of one preset apart besides arm and seed: their training steps, the evaluated step, samples, commit."""
    lines = []
    for preset in sorted({run.preset for run in runs}):
        ours = [run for run in runs if run.preset == preset]
        facts: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for run in ours:
            facts["training steps"][str(max(run.metrics, default=0))].append(run.name)
            facts["commit"][_commit(run)].append(run.name)
            if run.evaluation is not None:
                facts["evaluated step"][str(run.evaluation.step)].append(run.name)
                facts["answers a side"][str(run.evaluation.samples)].append(run.name)
        for fact, found in facts.items():
            if len(found) > 1:
                values = "; ".join(f"{value}: {', '.join(names)}" for value, names in found.items())
                lines.append(f"- {fact}: {values}.")
    return lines


def _commit(run: Run) -> str:
    """Of the run's last start; `unknown` if it did not record one."""
    starts = run.provenance.get("starts")
    git = starts[-1].get("git") if isinstance(starts, list) and starts else None
    if not isinstance(git, dict) or "commit" not in git:
        return "unknown"
    return str(git["commit"])[:8] + (" and changes" if git.get("dirty") else "")


_MORE: dict[str, Callable[[Evaluation], float]] = {
    "AUROC": lambda evaluation: math.nan if evaluation.auroc is None else evaluation.auroc,
    "hack removed": removal,
    "solve kept": solve_kept,
    "random block: loophole": lambda evaluation: (
        math.nan if evaluation.random_block is None else evaluation.random_block.loophole
    ),
    "base policy: solve": lambda evaluation: math.nan if evaluation.base is None else evaluation.base.solve,
}


def arm_table(runs: Sequence[Run]) -> list[str]:
    """One row per arm: the side it deploys, mean over the evaluated seeds and standard deviation between them."""
    head = [
        "arm",
        "deploys",
        "seeds",
        *(f"{side.upper()} {rate}" for side in ABLATION for rate in RATES),
        *_MORE,
    ]
    rows = []
    for key, members in by_arm(runs).items():
        done = [run.evaluation for run in members if run.evaluation is not None]
        if done:
            columns = [[getattr(getattr(e, side), rate) for e in done] for side in ABLATION for rate in RATES]
            columns += [[value(e) for e in done] for value in _MORE.values()]
            deploys = "/".join(sorted({run.deployed.upper() for run in members}))
            rows.append([_name(key, runs), deploys, str(len(done)), *map(_spread, columns)])
    return table(head, rows)


def cost_table(runs: Sequence[Run]) -> list[str]:
    """Seconds and tokens a step, mean over steps and seeds; compare times of one machine only."""
    rows = []
    for key, members in by_arm(runs).items():
        cells = []
        for metric, digits in (("timing_s/step", 2), (TOKENS, 0)):
            values = [value for run in members for value in run.curve(metric).values]
            cells.append(f"{fmean(values):,.{digits}f}" if values else "-")
        rows.append([_name(key, runs), *cells])
    return table(["arm", "seconds a step", "tokens a step"], rows)


def router_table(runs: Sequence[Run]) -> list[str]:
    """The router on the training rollouts of each run's last steps: mean over these, then over the seeds."""
    rows = []
    for key, members in by_arm(runs).items():
        columns = [[_late_mean(run, metric) for run in members] for metric in ROUTER_METRICS.values()]
        if any(math.isfinite(value) for column in columns for value in column):
            rows.append([_name(key, runs), str(len(members)), *map(_spread, columns)])
    return table(["arm", "seeds", *ROUTER_METRICS], rows) if rows else []


def _late_mean(run: Run, metric: str) -> float:
    """Mean of a metric over the run's last steps; NaN if it has no value in them."""
    last, curve = max(run.metrics, default=0), run.curve(metric)
    late = [value for step, value in zip(curve.steps, curve.values, strict=True) if step > last - LAST_STEPS]
    return fmean(late) if late else math.nan


def test_table(runs: Sequence[Run], reference: str = REFERENCE_ARM) -> list[str]:
    """Every other arm minus the reference arm of its preset; below, the arms that could not be tested."""
    groups, rows, untested = by_arm(runs), [], []
    for (preset, arm), members in groups.items():
        if arm == reference:
            continue
        name, others = _name((preset, arm), runs), groups.get((preset, reference), [])
        tests = [
            (side, rate, paired_test(unit_rates(members, side, rate), unit_rates(others, side, rate)))
            for side, rate in TESTED
        ]
        for side, rate, test in tests:
            if test:
                label = f"{side if side == DEPLOYED else side.upper()} {rate}"
                shown = f"{test.difference:+.3f}", test.seeds(), f"{test.p:.4f}", str(test.units)
                rows.append([name, label, *shown])
        if not any(test for *_, test in tests):
            untested.append(name)
    lines = table(["arm", "rate", f"minus {reference}", "by seed", "p", "units"], rows) if rows else []
    if untested:
        there = any(run.arm == reference for run in runs)
        why = "no seed of a preset on which both are evaluated" if there else "there is no run of it"
        lines += [
            *([""] if lines else []),
            f"Not tested against the reference arm `{reference}`, {why}: {', '.join(untested)}. "
            "`--reference ARM` names another.",
        ]
    return lines


def _spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation of what was measured, and of how many seeds where it was not on all."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return "-"
    shown = f"{fmean(finite):.3f}" + (f" ± {stdev(finite):.3f}" if len(finite) > 1 else "")
    return shown if len(finite) == len(values) else f"{shown} ({len(finite)} of {len(values)})"


def _name(key: tuple[str, str], runs: Sequence[Run]) -> str:
    preset, arm = key
    return arm if len({run.preset for run in runs}) == 1 else f"{arm} ({preset})"
