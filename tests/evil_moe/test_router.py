"""Router, directions, pin and the router-weighted baseline, on hand-computed cases and real features."""

from __future__ import annotations

import math

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from evil_moe.adapter import SequenceLayout, lora2r_model
from evil_moe.advantages import RolloutBatch, make_advantage
from evil_moe.direction import block_directions, contrastive_direction, haar_direction
from evil_moe.features import MeanPooling, normalise_per_module
from evil_moe.pin import pin_loss
from evil_moe.router import Router
from evil_moe.thresholds import gap_rule


def sides(num_pairs: int = 6, gap: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features of pairs whose sides differ along one axis, with noise: `[P, M=3, r=4]` each."""
    generator = torch.Generator().manual_seed(seed)
    body = torch.randn(num_pairs, 3, 4, generator=generator)
    hack = body + gap * torch.tensor([1.0, 0, 0, 0]) + 0.1 * torch.randn(num_pairs, 3, 4, generator=generator)
    return hack, body


def seeded_router(hack: Tensor, clean: Tensor, **options: bool) -> Router:
    router = Router(3, 4, **options)
    direction = block_directions(
        contrastive_direction(router.prepare(hack), router.prepare(clean)), 1, seed=0
    )
    router.calibrate_on_pairs(hack, clean, direction, gain=8.0)
    with torch.no_grad():
        router.direction.copy_(direction)
    return router


def weight(router: Router, features: Tensor, direction: Tensor | None = None) -> Tensor:
    return router.rollout_signals(features, direction).w


def test_direction_is_the_unit_mean_difference() -> None:
    hack = torch.tensor([[[3.0, 0.0]], [[1.0, 0.0]]])
    clean = torch.tensor([[[0.0, 0.0]], [[0.0, 0.0]]])
    assert torch.equal(contrastive_direction(hack, clean), torch.tensor([[1.0, 0.0]]))
    with pytest.raises(ValueError, match="no direction"):
        contrastive_direction(hack, hack)
    v = haar_direction((5, 4), seed=3)
    assert v.norm().item() == pytest.approx(1.0) and torch.equal(v, haar_direction((5, 4), seed=3))


def test_normalisation_is_per_module() -> None:
    features = torch.tensor([[[3.0, 4.0], [0.0, 0.001], [0.0, 0.0]]])
    expected = torch.tensor([[[0.6, 0.8], [0.0, 1.0], [0.0, 0.0]]])
    torch.testing.assert_close(normalise_per_module(features), expected)


@pytest.mark.parametrize("normalise", [True, False])
def test_seeded_w_separates_the_pairs(normalise: bool) -> None:
    hack, clean = sides()
    router = seeded_router(hack, clean, normalise=normalise)
    router.set_rollout_threshold(None, gap_rule(0.5))
    assert weight(router, hack).mean() > 0.7 and weight(router, clean).mean() < 0.3
    # scale = gain / gap, threshold at the midpoint: the mean scores of the sides are +- gain / 2 away
    for side, logit in ((hack, 4.0), (clean, -4.0)):
        assert router.signals(side, router.pin_threshold).logit.mean().item() == pytest.approx(
            logit, rel=1e-4
        )


def test_seeded_w_tells_sides_apart_that_differ_in_their_last_tokens(adapted: PeftModel) -> None:
    """On features that a model computes, if a random one of random tokens."""
    generator = torch.Generator().manual_seed(0)
    body, marker = torch.randint(1, 40, (8, 9), generator=generator), torch.full((8, 3), 50)
    hack_ids, clean_ids = torch.cat([body, marker], 1), torch.cat([body, marker + 7], 1)
    tuner = lora2r_model(adapted)

    def features(ids: Tensor) -> Tensor:
        layout = SequenceLayout(None, torch.ones(8, 12), 8)
        with (
            torch.no_grad(),
            tuner.forward_state.gated(None, layout),
            tuner.forward_state.reading_features(MeanPooling().reading(tuner)) as read,
        ):
            adapted(ids)
        return read.features()

    hack, clean = features(hack_ids), features(clean_ids)
    router = Router(14, 4)
    direction = contrastive_direction(router.prepare(hack), router.prepare(clean)).unsqueeze(1)
    router.calibrate_on_pairs(hack, clean, direction, gain=8.0)
    router.set_rollout_threshold(None, gap_rule(0.5))
    assert (weight(router, hack, direction) > weight(router, clean, direction)).all()


def test_two_thresholds() -> None:
    hack, clean = sides()
    router = seeded_router(hack, clean)
    assert not router.is_calibrated
    with pytest.raises(RuntimeError, match="set_rollout_threshold"):
        weight(router, hack)
    base = torch.tensor([[0.1], [0.2], [0.9]])
    router.set_rollout_threshold(base, gap_rule(0.5))
    assert router.rollout_threshold.item() == pytest.approx(0.2 + 0.5 * router.gap.item())
    assert router.pin_threshold != router.rollout_threshold
    reloaded = Router.from_state(router.state_dict())
    assert torch.equal(weight(reloaded, hack), weight(router, hack))
    older = {name: tensor for name, tensor in router.state_dict().items() if name != "anchor"}
    assert torch.equal(weight(Router.from_state(older), hack), weight(router, hack))


def test_each_block_has_a_threshold_of_its_own() -> None:
    """What all rollouts share scores differently with each direction; it must not decide which block they prefer."""
    generator = torch.Generator().manual_seed(0)
    shared, kinds = torch.randn(12, generator=generator), torch.eye(12)[:2]
    hack = (shared + kinds.repeat(8, 1) + 0.02 * torch.randn(16, 12, generator=generator)).view(16, 3, 4)
    clean = (shared + 0.02 * torch.randn(16, 12, generator=generator)).view(16, 3, 4)
    directions = torch.stack([(kinds[k] + (0.3 - 0.6 * k) * shared).view(3, 4) for k in range(2)], dim=1)
    router = Router(3, 4, num_blocks=2, normalise=False)
    router.calibrate_on_pairs(hack, clean, directions, gain=8.0)
    with torch.no_grad():
        router.direction.copy_(directions)
    router.set_rollout_threshold(router.block_scores(clean), gap_rule(0.5))
    assert router.rollout_threshold.shape == router.scale.shape == router.gap.shape == (2,)
    first = router.rollout_signals(hack).logits.argmax(dim=1)
    assert torch.equal(first, torch.tensor([0, 1] * 8)), "each block prefers its own kind of hack"
    assert router.block_scores(hack).argmax(dim=1).unique().numel() == 1, "which raw scores would not show"
    assert weight(router, hack).min() > 0.5 > weight(router, clean).max()
    reloaded = Router.from_state(router.state_dict(), normalise=False)
    assert torch.equal(weight(reloaded, hack), weight(router, hack))


@pytest.mark.parametrize("normalise", [True, False])
def test_an_anchored_threshold_goes_with_the_first_rollouts_as_v_turns(normalise: bool) -> None:
    hack, clean = sides()
    rollouts = torch.cat([hack, clean, clean.flip(0) * 3])
    anchored, fixed = (seeded_router(hack, clean, normalise=normalise, anchored=on) for on in (True, False))
    elsewhere = haar_direction((3, 4), seed=1).unsqueeze(1)
    turned = (anchored.direction + 0.8 * elsewhere).detach().requires_grad_()
    for router in (anchored, fixed):
        router.set_rollout_threshold(router.block_scores(rollouts), gap_rule(0.5))
        router.anchor.copy_(router.unit(rollouts).mean(dim=0))
    at_first = fixed.rollout_signals(rollouts).logit
    assert torch.equal(anchored.rollout_signals(rollouts).logit, at_first), "nothing moves before v does"

    moved = fixed.score(rollouts, turned).mean() - fixed.score(rollouts).mean()
    assert moved.abs() > 0.01 and anchored.anchor_shift(turned).item() == pytest.approx(
        moved.item(), rel=1e-4
    )
    logit = anchored.rollout_signals(rollouts, turned).logit
    assert logit.mean().item() == pytest.approx(at_first.mean().item(), abs=1e-4)
    assert (logit - at_first).abs().max() > 0.1, "the rollouts still move against each other"
    # and no gradient pulls all of them one way
    (shared,) = torch.autograd.grad(logit.mean(), turned)
    (each,) = torch.autograd.grad(fixed.rollout_signals(rollouts, turned).logit.mean(), turned)
    assert shared.norm() < 1e-4 * each.norm()


def test_a_following_threshold_moves_with_the_clean_rollouts() -> None:
    hack, clean = sides()
    router = seeded_router(hack, clean)
    start = torch.cat([torch.full((20,), 0.0), torch.full((4,), 0.6)])
    with torch.no_grad():
        router.rollout_threshold.fill_(0.3)
        router.scale.fill_(40.0)
    router.follow(start.unsqueeze(1))
    assert router.rollout_threshold.item() == pytest.approx(
        0.3
    ) and router.clean_level.item() == pytest.approx(0.0, abs=1e-3)
    # everything sinks by 0.1, and hacks are now the many: the threshold goes a fifth of the way
    later = torch.cat([torch.full((4,), -0.1), torch.full((20,), 0.5)])
    router.follow(later.unsqueeze(1), rate=0.2)
    assert router.rollout_threshold.item() == pytest.approx(0.28, abs=1e-3)


def test_a_matched_pin_holds_the_order_within_each_pair_and_leaves_the_seeded_direction_alone() -> None:
    hack, clean = sides(seed=5)
    tasks = torch.randn(len(hack), 3, 4, generator=torch.Generator().manual_seed(1))
    router = seeded_router(hack + 2 * tasks, clean + 2 * tasks, normalise=False)
    router.set_rollout_threshold(None, gap_rule(0.5))
    features = hack + 2 * tasks, clean + 2 * tasks
    logits = router.signals(torch.cat(features), router.pin_threshold).logit
    difference = logits[: len(hack)] - logits[len(hack) :]
    loss = pin_loss(router, *features, matched=True)
    assert loss.item() == pytest.approx(torch.log1p(torch.exp(-difference)).mean().item(), rel=1e-4)

    def pull(matched: bool) -> float:
        (grad,) = torch.autograd.grad(pin_loss(router, *features, matched=matched), router.direction)
        return grad.norm().item()

    assert pull(matched=True) < 0.1 * pull(matched=False), "it holds; the other one trains"
    with torch.no_grad():
        router.direction.neg_()
    assert pin_loss(router, *features, matched=True) > 4


def test_pin_gradient_is_the_analytic_one() -> None:
    """d pin / d v = mean over 2P sides of (w - label) * scale * d cos(h, v) / d v."""
    hack, clean = sides(seed=5)
    router = seeded_router(hack, clean)
    with torch.no_grad():
        router.direction.add_(0.3 * torch.randn(3, 1, 4, generator=torch.Generator().manual_seed(1)))
    loss = pin_loss(router, hack, clean)
    loss.backward()
    v = router.direction.detach().flatten()
    h = router.prepare(torch.cat([hack, clean])).flatten(1)
    cos = h @ v / (h.norm(dim=1) * v.norm())
    w = torch.sigmoid(router.scale * (cos - router.pin_threshold))
    label = torch.cat([torch.ones(6), torch.zeros(6)])
    d_cos = h / (h.norm(dim=1, keepdim=True) * v.norm()) - cos[:, None] * v / v.norm() ** 2
    expected = ((w - label)[:, None] * router.scale * d_cos).mean(0).view(3, 1, 4)
    torch.testing.assert_close(router.direction.grad, expected, rtol=1e-4, atol=1e-7)
    expected_loss = -(label * w.log() + (1 - label) * (1 - w).log()).mean()
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-5)


def test_pin_turns_a_random_direction_towards_hack() -> None:
    hack, clean = sides()
    router = Router(3, 4)
    start = haar_direction((3, 4), seed=11).unsqueeze(1)
    router.calibrate_on_pairs(hack, clean, start, gain=8.0)
    with torch.no_grad():
        router.direction.copy_(start)
        router.scale.fill_(8.0)
    optimizer = torch.optim.Adam(router.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = pin_loss(router, hack, clean)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert (router.score(hack) - router.score(clean)).mean() > 0


def test_router_weighted_baseline_by_hand() -> None:
    reward = torch.tensor([3.0, 1.0, 0.0, 3.0, 2.0, 2.0])
    w = torch.tensor([1.0, 0.0, 0.0, 0.5, 0.0, 0.0])
    group = torch.tensor([0, 0, 0, 0, 1, 1])
    clean_mean = (1.0 + 0.0 + 0.5 * 3.0) / (1 + 1 + 0.5)
    mean = (3 + 1 + 0 + 3) / 4
    expected = [3 - mean, 1 - clean_mean, 0 - clean_mean, 0.5 * (3 - clean_mean) + 0.5 * (3 - mean), 0.0, 0.0]
    keep = torch.ones(6, dtype=torch.bool)
    transform = make_advantage("router_weighted")
    torch.testing.assert_close(transform(RolloutBatch(reward, w, group, keep)), torch.tensor(expected))
    # without routing it is Dr.GRPO
    plain = transform(RolloutBatch(reward, torch.zeros(6), group, keep))
    torch.testing.assert_close(plain, reward - torch.tensor([1.75] * 4 + [2.0] * 2))
    torch.testing.assert_close(plain, make_advantage("dr_grpo")(RolloutBatch(reward, w, group, keep)))
    assert not math.isnan(transform(RolloutBatch(reward, torch.ones(6), group, keep)).sum().item())
    # what is screened out is in no mean and in no update
    keep[0] = False
    screened = transform(RolloutBatch(reward, torch.zeros(6), group, keep))
    torch.testing.assert_close(screened, torch.tensor([0.0, 1 - 4 / 3, -4 / 3, 3 - 4 / 3, 0.0, 0.0]))
    with pytest.raises(ValueError, match="router_weighted"):
        make_advantage("rooter")
    with pytest.raises(ValueError, match="strenght"):
        make_advantage("rebound", strenght=2)


def test_placebo_splits_rollouts_at_the_median() -> None:
    hack, clean = sides()
    router = seeded_router(hack, clean)
    scale = router.scale.clone()
    placebo = haar_direction((3, 4), seed=2).unsqueeze(1)
    router.become_placebo(placebo)
    scores = router.block_scores(hack, placebo)
    router.set_rollout_threshold(scores, gap_rule(1.0))
    assert router.scale == scale and router.rollout_threshold == scores.median()
    assert 0 < (weight(router, hack, placebo) > 0.5).sum() < len(hack)
