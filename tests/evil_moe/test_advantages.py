"""Advantage transforms and the concept score on hand-computed cases."""

from __future__ import annotations

import dataclasses
import math

import jaxtyping
import pytest
import torch
from torch import Tensor

from evil_moe.advantages import make_advantage
from evil_moe.advantages.dr_grpo import DrGrpo
from evil_moe.advantages.rebound import Rebound
from evil_moe.advantages.rollouts import RolloutBatch
from evil_moe.concept import concept_score, modules_at_depth, modules_by_layer


def batch(
    reward: list[float], group: list[int], keep: list[bool] | None = None, concept: list[float] | None = None
) -> RolloutBatch:
    return RolloutBatch(
        reward=torch.tensor(reward),
        w=torch.zeros(len(reward)),
        group=torch.tensor(group),
        keep=torch.ones(len(reward), dtype=torch.bool) if keep is None else torch.tensor(keep),
        concept=None if concept is None else torch.tensor(concept),
    )


def test_dr_grpo_is_the_reward_less_the_groups_mean() -> None:
    advantage = DrGrpo()(batch([3.0, 0.0, 0.0, 1.0, 2.0], [0, 0, 0, 1, 1]))
    torch.testing.assert_close(advantage, torch.tensor([2.0, -1.0, -1.0, -0.5, 0.5]))


def test_grpo_divides_by_the_groups_standard_deviation() -> None:
    advantage = DrGrpo(std=True)(batch([3.0, 0.0, 0.0, 2.0, 2.0, 7.0], [0, 0, 0, 1, 1, 2]))
    torch.testing.assert_close(
        advantage, torch.tensor([2.0, -1.0, -1.0, 0, 0, 0]) / math.sqrt(3), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("std", [False, True])
def test_screening_removes_exactly_the_flagged_rollouts_from_mean_and_update(std: bool) -> None:
    reward, group = [3.5, 3.0, 0.0, 0.5, 3.5, 3.5], [0, 0, 0, 0, 1, 1]
    keep = [False, True, True, True, False, False]
    advantage = DrGrpo(std=std)(batch(reward, group, keep))
    # what is left is as if the flagged ones had never been there
    alone = DrGrpo(std=std)(batch([3.0, 0.0, 0.5], [0, 0, 0]))
    torch.testing.assert_close(advantage[1:4], alone)
    assert advantage[[0, 4, 5]].tolist() == [0.0, 0.0, 0.0]
    # and a flagged rollout's reward changes nothing
    assert torch.equal(DrGrpo(std=std)(batch([99.0, *reward[1:]], group, keep)), advantage)


def test_rebound_takes_from_what_would_be_reinforced_only() -> None:
    # z of (0, 2, 0, 2) is (-1, 1, -1, 1); advantages are (1, 2, -1, -2)
    rollouts = batch([1.0, 2.0, -1.0, -2.0], [0, 0, 0, 0], concept=[0.0, 2.0, 0.0, 2.0])
    torch.testing.assert_close(Rebound(0.5)(rollouts), torch.tensor([1.0, 1.5, -1.0, -2.0]))
    assert Rebound(3.0)(rollouts)[1].item() == pytest.approx(-1.0)  # a strong score turns the sign
    assert torch.equal(Rebound(0.0)(rollouts), DrGrpo()(rollouts))


def test_rebound_refuses_a_depth_that_is_none() -> None:
    for depth in ([0.8, 0.6], [0.5], [0.5, 1.5]):
        with pytest.raises(ValueError, match="two shares of the depth in order"):
            Rebound(depth=depth)
    assert make_advantage("rebound", depth=[0.3, 0.5])


def test_rebound_standardises_over_kept_rollouts_and_leaves_screened_ones_out() -> None:
    rollouts = batch(
        [9.0, 1.0, 2.0, -1.0, -2.0], [0] * 5, keep=[False] + [True] * 4, concept=[50.0, 0.0, 2.0, 0.0, 2.0]
    )
    torch.testing.assert_close(Rebound(0.5)(rollouts), torch.tensor([0.0, 1.0, 1.5, -1.0, -2.0]))
    flat = batch([1.0, 0.0], [0, 0], concept=[0.3, 0.3])
    assert torch.equal(Rebound(1.0)(flat), DrGrpo()(flat))
    none = batch([1.0, 0.0], [0, 0], keep=[False, False], concept=[0.1, 0.3])
    assert Rebound(1.0)(none).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("value", [0.7, 9.7, -0.3, 1e-3, 3.3e4, 0.0])
@pytest.mark.parametrize("size", [3, 8, 10, 16, 33])
def test_a_group_of_equal_rewards_pushes_nothing(value: float, size: int) -> None:
    """0.7 for all eight gave +0.056, 9.7 for ten +0.476: float32's mean is off by what the deviation then divides."""
    reward, group = [value] * size + [3.0, 0.0], [0] * size + [1, 1]
    for std in (True, False):
        advantage = DrGrpo(std=std)(batch(reward, group))
        assert not advantage[:size].any() and advantage[size:].tolist() == pytest.approx(
            [1.5 / math.sqrt(4.5), -1.5 / math.sqrt(4.5)] if std else [1.5, -1.5], rel=1e-5
        )
        # and so does one whose kept rewards are: what was screened out has no say in it
        screened = DrGrpo(std=std)(batch([99.0, *reward], [0, *group], keep=[False] + [True] * len(reward)))
        assert not screened[: size + 1].any() and torch.equal(screened[size + 1 :], advantage[size:])


@pytest.mark.parametrize("concept", [0.7, 0.1, 0.0123, -0.3, 0.0])
@pytest.mark.parametrize("size", [3, 7, 10, 80])
def test_rebound_takes_nothing_where_all_score_the_same(concept: float, size: int) -> None:
    reward = [float(i % 2) for i in range(size)]
    rollouts = batch(reward, [0] * size, concept=[concept] * size)
    assert torch.equal(Rebound(1.0)(rollouts), DrGrpo()(rollouts))
    # the same texts in other micro-batches: equal but for the last bits
    jitter = torch.tensor([concept] * size)
    jitter[::2] *= 1 + 2**-23
    assert torch.equal(Rebound(1.0)(batch(reward, [0] * size, concept=jitter.tolist())), DrGrpo()(rollouts))


@pytest.mark.parametrize("value", [0.7, 9.7])
def test_the_router_weighted_baseline_divides_by_no_deviation(value: float) -> None:
    """Equal rewards are off by their rounding alone, as long as the group has a clean mean."""
    rollouts = batch([value] * 10, [0] * 10)
    rollouts = dataclasses.replace(rollouts, w=torch.linspace(0, 0.99, 10))
    assert make_advantage("router_weighted")(rollouts).abs().max() < 3e-7 * value


def test_rebound_modifies_another_base() -> None:
    def base(rollouts: RolloutBatch) -> Tensor:
        return rollouts.reward

    rollouts = batch([4.0, 1.0], [0, 0], concept=[1.0, -1.0])
    assert Rebound(1.0, base)(rollouts).tolist() == [3.0, 1.0]


def test_what_a_transform_cannot_use_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs a concept score"):
        Rebound(1.0)(batch([1.0], [0]))
    with pytest.raises(ValueError, match=r"strength=-1"):
        Rebound(-1.0)


def test_a_batch_of_two_lengths_is_refused_also_where_annotations_are_not_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=r"concept is \[1\] and reward \[2\]"):
        batch([1.0, 2.0], [0, 0], concept=[1.0])


NANO = [f"model.layers.{layer}.{part}" for layer in range(3) for part in ("self_attn.q_proj", "mlp.up_proj")]


def test_layers_at_a_share_of_the_depth() -> None:
    assert modules_by_layer(["lm_head", *NANO]) == {0: [1, 2], 1: [3, 4], 2: [5, 6]}
    # the middles of three layers are 1/6, 1/2, 5/6: none lies in the share, and 5/6 is the nearest to 0.675
    assert modules_at_depth(NANO, (0.6, 0.75)) == [4, 5]
    deep = [f"model.layers.{layer}.mlp.up_proj" for layer in range(36)]
    assert modules_at_depth(deep, (0.6, 0.75)) == [22, 23, 24, 25, 26]
    with pytest.raises(ValueError, match="in order"):
        modules_at_depth(NANO, (0.8, 0.6))
    with pytest.raises(ValueError, match="no depth to choose by"):
        modules_by_layer(["lm_head"])


def test_concept_score_sees_the_chosen_layers_only() -> None:
    features, direction = torch.zeros(2, 6, 2), torch.zeros(6, 2)
    direction[4, 0] = direction[5, 1] = 1.0
    features[0, 4], features[0, 5] = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    features[1, 4] = torch.tensor([1.0, 0.0])
    expected = torch.tensor([1.0, 1 / math.sqrt(2)])
    torch.testing.assert_close(concept_score(features, direction, NANO), expected)
    noise = torch.ones(4, 2)
    features[:, :4], direction[:4] = noise, noise
    torch.testing.assert_close(concept_score(features, direction, NANO), expected)
    with pytest.raises(ValueError, match="2 module names for a direction of 6"):
        concept_score(features, direction, NANO[:2])
