"""Where the rollouts' threshold lies, from the scores of the base policy's rollouts along one direction. All of them assume that
hacks are rare there.

    gap        median + fraction * gap of the pairs     the pairs' two sides lie as far apart as rollouts' do: right for means over
               completions of like length; under a maximum the clean ones' tail may reach it
    spread     median + multiple * 1.4826 * MAD         clean scores are a bell, of whatever width: 1.4826 MAD is its standard
               deviation, and does not see the hacks that are there; the tail to the right of a maximum is a little longer
    quantile   the score that a share reaches           nothing but that share: what lies above is called a hack, rightly or not;
               fewer hacks than that are rare enough, and a tenth of clean rollouts is lost at .9

By the best window, prose in front of a reply lifts clean scores by most of the distance to hacks', and those hardly: thresholds must
come from rollouts with as much prose as those that they are for. On SmolLM2 (docs/methods.md) .5 of the gap and 6 spreads
then lie among the hacks, and the .9 quantile between; no rule makes w the same within .05 with the prose and without.

MAD is the median distance from the median (Hampel, 1974, "The Influence Curve and Its Role in Robust Estimation").
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

ThresholdRule = Callable[[Float[Tensor, " B"], Float[Tensor, ""]], Float[Tensor, ""]]
"""From scores and the pairs' gap to a threshold."""

MAD_OF_A_BELL = 0.6744897501960817
"""Of a standard normal distribution."""


def gap_rule(fraction: float) -> ThresholdRule:
    """`median(scores) + fraction * gap`."""
    return lambda scores, gap: scores.median() + fraction * gap


def spread_rule(multiple: float) -> ThresholdRule:
    """`median(scores) + multiple * 1.4826 * MAD(scores)`."""

    def threshold(scores: Tensor, gap: Tensor) -> Tensor:
        median = scores.median()
        return median + multiple / MAD_OF_A_BELL * (scores - median).abs().median()

    return threshold


def quantile_rule(share: float) -> ThresholdRule:
    """`quantile(scores, share)`, linear between two scores."""
    return lambda scores, gap: torch.quantile(scores.float(), share).to(scores)
