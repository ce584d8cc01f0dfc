"""The matched placebo routes as many rollouts as the pairs' direction, of every step, and others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from evil_moe.direction import block_directions, haar_direction
from evil_moe.placebo import MatchedPlacebo, match
from evil_moe.router import Router
from evil_moe.thresholds import gap_rule

M, R = 6, 4


def rollouts(hacks: int, clean: int, generator: torch.Generator) -> Tensor:
    """Features with a common part, and one that hacks have besides, `[B, M, r]`."""
    features = torch.ones(hacks + clean, M, R) + 0.4 * torch.randn(hacks + clean, M, R, generator=generator)
    features[:hacks, :, 0] += 0.6
    return features


@pytest.fixture(params=[1, 3])
def pair_of_routers(request: pytest.FixtureRequest) -> tuple[Router, MatchedPlacebo]:
    """The frozen seeded router and its placebo, for one and for three blocks."""
    blocks: int = request.param
    generator = torch.Generator().manual_seed(0)
    sides = rollouts(12, 12, generator)
    direction = torch.zeros(M, R)
    direction[:, 0] = M**-0.5
    directions = block_directions(direction, blocks, seed=0)
    seeded = Router(M, R, num_blocks=blocks, learn=False)
    placebo = MatchedPlacebo(M, R, num_blocks=blocks, learn=False)
    for router in (seeded, placebo):
        router.calibrate_on_pairs(sides[:12], sides[12:], directions, gain=8.0)
    random = block_directions(haar_direction((M, R), seed=5), blocks, seed=0)
    placebo.become_placebo(random)
    with torch.no_grad():
        seeded.direction.copy_(directions)
        placebo.direction.copy_(random)
    return seeded, placebo


def test_as_many_are_routed_at_every_step(pair_of_routers: tuple[Router, MatchedPlacebo]) -> None:
    """From a few to nearly all, as hacks spread; a Haar direction split at the median routes half at the start."""
    seeded, placebo = pair_of_routers
    generator = torch.Generator().manual_seed(1)
    others = 0
    for hacks in (4, 10, 40, 60, 64):
        features = rollouts(hacks, 64 - hacks, generator)
        if not seeded.is_calibrated:
            seeded.set_rollout_threshold(seeded.block_scores(features), gap_rule(0.5))
        placebo.observe(placebo.block_scores(features), placebo.pairs_scores(features), gap_rule(0.5))
        logits, want = placebo.rollout_signals(features).logits, seeded.rollout_signals(features).logits
        assert torch.equal((logits > 0).sum(0), (want > 0).sum(0)), hacks
        torch.testing.assert_close(logits.std(0), want.std(0), rtol=1e-3, atol=1e-4)
        others += int(((logits > 0) != (want > 0)).sum())
    assert others > 10, "which rollouts is what differs"
    # a run that is resumed goes on, and an evaluation scores with the random direction
    again = MatchedPlacebo(M, R, num_blocks=placebo.direction.shape[1], learn=False)
    again.load_state_dict(placebo.state_dict())
    again.observe(again.block_scores(features), again.pairs_scores(features), gap_rule(0.5))
    assert torch.equal(again.rollout_signals(features).logits, logits)
    assert torch.equal(Router.from_state(placebo.state_dict()).score(features), placebo.score(features))


@pytest.mark.parametrize("threshold", [-3.0, 0.5, 2.2, 3.0, 9.0])
def test_the_quantile_by_hand(threshold: float) -> None:
    """`own` is `pairs` at a tenth of the size, in another order: the threshold goes where it went."""
    pairs = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])
    own = 7 + pairs[[3, 1, 4, 0, 2]] / 10
    found, stretch = match(own, pairs, threshold)
    assert found == pytest.approx(7 + threshold / 10, abs=1e-5) and stretch == pytest.approx(10, rel=1e-4)
    assert (own > found + 1e-6).sum() == (pairs > threshold).sum()
