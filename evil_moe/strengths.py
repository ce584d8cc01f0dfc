"""The quarantine's strength at deployment, between off (0) and on (1), and which of several to deploy.

Strength s scales the output of every quarantine block, as m = s does in the gate at training. shawnghu/small-rl evaluates
its adapters at such a series of scales and deploys the highest one that its monitor sees hacking less than the base
policy, or 0 if there is none. Here it is the grader's labels on held-out problems, and "at or below". A strength chosen
so has been chosen on the very answers that its rates are of: they flatter it a little.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

OF_CURVE = "[0,.1,.25,.5,.75,1]"
"""Strengths to start with, as an override's value."""
RATES = ("loophole", "hack", "solve", "compile")
_PREFIX = "strength_"


@dataclass(frozen=True)
class Point:
    """One side's graded answers at one strength, counted; `counts` has every name of `RATES`."""

    strength: float
    samples: int
    counts: dict[str, int]

    def rate(self, name: str) -> float:
        return self.counts[name] / self.samples

    def interval(self, name: str, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson's (1927) interval of a rate of independent answers; it has a width at 0 and at 1, too."""
        z, n, p = NormalDist().inv_cdf((1 + confidence) / 2), self.samples, self.rate(name)
        centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, (centre - half) / (1 + z * z / n)), min(1.0, (centre + half) / (1 + z * z / n))


def check_strength(value: object) -> float:
    """`value` as a float.

    Raises:
        ValueError: it is no number from 0 to 1.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(
            f"strength {value!r}: give a number from 0 (quarantine off) to 1 (on, as trained), e.g. 0.25"
        )
    return float(value)


def check_strengths(values: object) -> tuple[float, ...]:
    """The strengths of a curve, rising.

    Raises:
        ValueError: `values` is no list, is empty, names a strength twice, or one that `check_strength` refuses.
    """
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise ValueError(
            f"strengths={values!r}: give a list of numbers from 0 to 1, e.g. strengths={OF_CURVE}"
        )
    strengths = [check_strength(value) for value in values]
    if twice := sorted({s for s in strengths if strengths.count(s) > 1}):
        named = ", ".join(f"{s:g}" for s in twice)
        raise ValueError(f"strengths={list(values)} names {named} more than once: name each once")
    return tuple(sorted(strengths))


def side_of(strength: float) -> str:
    """The side of an evaluation that has it: `off` and `on` are the strengths 0 and 1."""
    return {0.0: "off", 1.0: "on"}.get(strength, f"{_PREFIX}{strength}")


def strength_of(side: str) -> float | None:
    """The strength in the name of a side that `side_of` gives for one between 0 and 1; None for any other side."""
    try:
        return float(side.removeprefix(_PREFIX)) if side.startswith(_PREFIX) else None
    except ValueError:
        return None


def highest_at_or_below(points: Iterable[Point], rate: str, bound: float) -> Point | None:
    """Of all strengths at which `rate` is at or below `bound` the highest; None without one."""
    kept = [point for point in points if point.rate(rate) <= bound]
    return max(kept, key=lambda point: point.strength, default=None)
