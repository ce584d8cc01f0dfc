"""The router's start: directions, scale and thresholds from the pairs, read on the policy as it is."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from evil_moe.direction import block_directions, contrastive_direction, haar_direction
from evil_moe.pairs.reader import PairReader
from evil_moe.router import Router
from evil_moe.settings import MethodSettings, RouterSettings
from evil_moe.thresholds import ThresholdRule, gap_rule, quantile_rule, spread_rule


@torch.no_grad()
def seed_directions(router: Router, pairs: PairReader, settings: MethodSettings) -> Float[Tensor, "M K r"]:
    """Calibrate the router on the pairs; the directions that it is to start from, theirs or a placebo's.

    Raises:
        ValueError: the pairs' sides have the same mean.
    """
    directions = calibrate_on_pairs(router, pairs, settings)
    if settings.router.direction != "seeded":
        num_modules, _, rank = directions.shape
        placebo = haar_direction((num_modules, rank), seed=settings.seed).to(directions)
        directions = block_directions(placebo, settings.adapter.num_quarantine, settings.seed)
        router.become_placebo(directions)
    return directions


@torch.no_grad()
def calibrate_on_pairs(router: Router, pairs: PairReader, settings: MethodSettings) -> Float[Tensor, "M K r"]:
    """Gap, scale and the pin's threshold from the pairs as they are now; returns their directions.

    Raises:
        ValueError: as `seed_directions`.
    """
    hack, clean = pairs.seed_features()
    direction = contrastive_direction(router.prepare(hack), router.prepare(clean))
    directions = block_directions(direction, settings.adapter.num_quarantine, settings.seed)
    hack, clean = pairs.features(directions.transpose(0, 1))
    router.calibrate_on_pairs(hack, clean, directions, gain=settings.router.gain)
    return directions


def threshold_rule(options: RouterSettings) -> ThresholdRule:
    """As `evil_moe.router.threshold_rule` says."""
    rules = {
        "gap": gap_rule(options.threshold_fraction),
        "spread": spread_rule(options.threshold_spread),
        "quantile": quantile_rule(options.threshold_quantile),
    }
    return rules[options.threshold_rule]
