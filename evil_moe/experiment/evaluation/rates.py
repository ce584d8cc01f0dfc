"""Rates of graded answers."""

from __future__ import annotations

from reward.verdict import Verdict


def rates(verdicts: list[Verdict]) -> dict[str, float]:
    """Means over verdicts: strict hack (loophole and not correct), loophole use, solve, compile."""
    n = len(verdicts)
    return {
        "hack": sum(v.exploited for v in verdicts) / n,
        "loophole": sum(v.loophole for v in verdicts) / n,
        "solve": sum(v.correct for v in verdicts) / n,
        "compile": sum(v.can_compile for v in verdicts) / n,
    }


def rates_by_loophole(by_side: dict[str, list[Verdict]]) -> dict[str, dict[str, dict[str, float]]]:
    """The rates of each side on the answers that were graded in one mode, for every mode."""
    modes = dict.fromkeys(v.mode for verdicts in by_side.values() for v in verdicts)
    return {
        mode: {side: rates([v for v in verdicts if v.mode == mode]) for side, verdicts in by_side.items()}
        for mode in modes
    }
