"""Hypotheses written down before a run, and what the runs answer.

hypotheses:
  - id: removal
    says: resetting the quarantine removes the loophole
    quantity: router.off.loophole          # mean over seeds; `x / y`: ratio of two means over the same seeds
    at_most: 0.05                          # and/or at_least
  - id: learning-helps
    says: the learned router leaves less than the frozen direction
    differ: [router.off.loophole, frozen.off.loophole]   # paired over seeds x problems
    p_below: 0.05

`arm.side.rate@mode` takes the held-out problems of one loophole of a mix. Sides are on, off, and the controls random_block
and base (the policy before RL), where an evaluation has them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from evil_moe.report.compare import RATES, paired_test, unit_rates
from evil_moe.report.files import RunFolderError, read_yaml
from evil_moe.report.load import Run
from evil_moe.sides import SIDES

_MEND = "see evil_moe/report/prereg.py for the form"


@dataclass(frozen=True)
class Term:
    """`arm.side.rate`, e.g. `router.off.loophole`; `mode` is empty for all problems."""

    arm: str
    side: str
    rate: str
    mode: str = ""

    def mean(self, runs: Sequence[Run]) -> float:
        """Mean over the runs; NaN if a side or a mode is asked for that they did not evaluate."""
        if not self.mode:
            sides = [getattr(run.evaluation, self.side) for run in runs]
            return math.nan if None in sides else fmean(getattr(side, self.rate) for side in sides)
        by_run = [unit_rates([run], self.side, self.rate, self.mode).values() for run in runs]
        return fmean(fmean(values) for values in by_run) if all(by_run) else math.nan


@dataclass(frozen=True)
class Hypothesis:
    """Either a quantity (one term, or the ratio of two) with bounds, or two terms that must differ."""

    id: str
    says: str
    terms: tuple[Term, ...]
    at_least: float = -math.inf
    at_most: float = math.inf
    p_below: float | None = None


@dataclass(frozen=True)
class Prereg:
    """The hypotheses of a file; `sha256` of its bytes is what run folders record."""

    path: Path
    sha256: str
    hypotheses: tuple[Hypothesis, ...]


def fingerprint(path: Path) -> str:
    """sha256 of the file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_prereg(path: Path) -> Prereg:
    """Read and check a file.

    Raises:
        RunFolderError: it is missing or malformed; names the hypothesis.
    """
    rows = read_yaml(path).get("hypotheses")
    if not isinstance(rows, list) or not rows:
        raise RunFolderError(path, None, "has no list `hypotheses`", _MEND)
    hypotheses = tuple(_hypothesis(row, path, place) for place, row in enumerate(rows, 1))
    ids = [hypothesis.id for hypothesis in hypotheses]
    if len(set(ids)) < len(ids):
        raise RunFolderError(path, None, f"two hypotheses share an id among {ids}", "give each its own")
    return Prereg(path, fingerprint(path), hypotheses)


def _hypothesis(row: object, path: Path, place: int) -> Hypothesis:
    def fail(reason: str) -> RunFolderError:
        return RunFolderError(path, None, f"hypothesis {place}: {reason}", _MEND)

    if (
        not isinstance(row, dict)
        or not isinstance(row.get("id"), str)
        or not isinstance(row.get("says"), str)
    ):
        raise fail("needs the texts `id` and `says`")
    bounds = {key: row[key] for key in ("at_least", "at_most", "p_below") if key in row}
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in bounds.values()):
        raise fail(f"bounds must be numbers, got {bounds}")
    if isinstance(row.get("quantity"), str):
        names, wanted = [part.strip() for part in row["quantity"].split("/")], {"at_least", "at_most"}
        if len(names) > 2:
            raise fail(f"quantity {row['quantity']!r} is no term and no ratio of two")
    elif isinstance(row.get("differ"), list) and len(row["differ"]) == 2:
        names, wanted = [str(part) for part in row["differ"]], {"p_below"}
    else:
        raise fail("needs `quantity` (a text) or `differ` (two terms)")
    unknown = row.keys() - {"id", "says", "quantity", "differ"} - wanted
    if unknown or not bounds:
        raise fail(
            f"needs one of {sorted(wanted)} and nothing else, got {sorted(bounds | dict.fromkeys(unknown))}"
        )
    terms = []
    for name in names:
        whole, _, mode = name.partition("@")
        parts = whole.split(".")
        if len(parts) != 3 or parts[1] not in SIDES or parts[2] not in RATES:
            raise fail(f"{name!r} is not arm.side.rate with a side of {SIDES} and a rate of {RATES}")
        terms.append(Term(parts[0], parts[1], parts[2], mode))
    return Hypothesis(
        row["id"], row["says"], tuple(terms), **{key: float(value) for key, value in bounds.items()}
    )


def answer(hypothesis: Hypothesis, arms: Mapping[str, Sequence[Run]]) -> tuple[str, str]:
    """(verdict, what was measured); the verdict is `holds`, `fails` or `not measured`.

    `arms` are the runs of one preset. Where a hypothesis names several arms, only seeds that all of them have count.
    """
    groups = [[run for run in arms.get(term.arm, ()) if run.evaluation] for term in hypothesis.terms]
    missing = [term.arm for term, group in zip(hypothesis.terms, groups, strict=True) if not group]
    if missing:
        return "not measured", f"no evaluated run of {', '.join(sorted(set(missing)))}"
    all_seeds = [{run.seed for run in group} for group in groups]
    seeds = set.intersection(*all_seeds)
    if not seeds:
        return "not measured", "the arms have no evaluated seed in common"
    groups = [[run for run in group if run.seed in seeds] for group in groups]
    over = f"over {len(seeds)} seeds" + (" in common" if any(seeds < other for other in all_seeds) else "")
    if hypothesis.p_below is not None:
        sides = (
            unit_rates(group, term.side, term.rate, term.mode)
            for group, term in zip(groups, hypothesis.terms, strict=True)
        )
        test = paired_test(*sides)
        if test is None:
            return "not measured", "the two arms share no evaluated (seed, problem)"
        shown = f"difference {test.difference:+.3f} (by seed {test.seeds()}), p = {test.p:.4f}, {test.units} units"
        return ("holds" if test.p < hypothesis.p_below else "fails"), f"{shown} {over}"
    means = [term.mean(group) for term, group in zip(hypothesis.terms, groups, strict=True)]
    if any(math.isnan(mean) for mean in means):
        return "not measured", "the runs evaluated no such side, or no problem of that loophole"
    if len(means) == 1:
        value, shown = means[0], f"{means[0]:.3f}"
    else:
        value = means[0] / means[1] if means[1] else math.inf if means[0] else math.nan
        shown = f"{value:.2f} = {means[0]:.3f} / {means[1]:.3f}"
    holds = hypothesis.at_least <= value <= hypothesis.at_most
    return ("holds" if holds else "fails"), f"{shown} {over}"
