"""Checks of a direction on pairs that have one, and on pairs that have none; steering on a real model."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from evil_moe.adapter import SequenceLayout, lora2r_model
from evil_moe.direction import haar_direction
from evil_moe.direction_checks import check_direction, cosines_with, held_out, random_accuracies, verdict
from evil_moe.features import MeanPooling
from evil_moe.steering import bottleneck_lengths, fisher_p, input_shifts, steered

NAMES = [f"model.layers.{layer}.mlp.{part}" for layer in range(3) for part in ("up_proj", "down_proj")]


def sides(
    shift: float, *, pairs: int = 16, seed: int = 0, places: slice = slice(None)
) -> tuple[Tensor, Tensor]:
    """Noise `[P, 6, 4]`, with the hack side moved along one axis of the modules in `places`."""
    generator = torch.Generator().manual_seed(seed)
    hack, clean = torch.randn(2, pairs, 6, 4, generator=generator)
    hack[:, places, 0] += shift
    return hack, clean


def test_held_out_by_hand() -> None:
    hack, clean = torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]]]), torch.tensor([[[0.0, 1.0]], [[0.0, 1.0]]])
    # pair 0 is scored by pair 1: v = (1, 0), sides at cos 45 degrees and 0, threshold 0.3536
    # pair 1 is scored by pair 0: v = (1, -1) / sqrt(2), sides at +- 0.7071, threshold 0: its hack side lies on it
    found = held_out(hack, clean, 2, cosines_with(hack, clean), [0])
    assert found.hack == pytest.approx((1 - 0.35355, 0.0), abs=1e-4)
    assert found.clean == pytest.approx((-0.35355, -0.70711), abs=1e-4)
    assert found.accuracy == 0.75 and found.auroc == 1.0 and found.ordered == 1.0


def test_a_random_direction_by_hand() -> None:
    """Three pairs on a line: the direction along it is turned round and gets all right, the one across gets half."""
    hack = torch.tensor([[[1.0, 0.0]], [[2.0, 0.0]], [[3.0, 0.0]]])
    directions = torch.tensor([[[-1.0, 0.0]], [[0.0, 1.0]]])
    assert random_accuracies(cosines_with(hack, -hack), directions, folds=3).tolist() == [1.0, 0.5]


def test_a_direction_that_is_there_is_good_enough() -> None:
    checks = check_direction(*sides(3.0), NAMES)
    assert checks.held_out.accuracy > 0.95 and checks.held_out.auroc > 0.95 and checks.stability.low > 0.6
    assert checks.random_accuracy.high < checks.held_out.accuracy
    assert checks.reasons == () and checks.verdict == "good enough to route on"
    assert checks.random_cosine == pytest.approx(checks.expected_cosine, rel=0.2)
    assert checks.expected_cosine == pytest.approx(24**-0.5)


def test_noise_is_not_and_every_reason_is_said() -> None:
    checks = check_direction(*sides(0.0), NAMES)
    assert checks.held_out.accuracy < 0.75 and checks.stability.mean == pytest.approx(0, abs=0.3)
    assert len(checks.reasons) >= 2 and checks.verdict.startswith("NOT good enough: held-out accuracy")
    assert "halves" in checks.verdict


def test_a_pair_does_not_help_to_build_what_scores_it() -> None:
    """One outlying pair with swapped sides pulls the direction of all pairs, but not the one it is scored by."""
    hack, clean = sides(3.0)
    hack[0], clean[0] = 100 * clean[0], 100 * hack[0]
    found = check_direction(hack, clean, NAMES, normalise=False).held_out
    assert found.hack[0] < 0 < found.clean[0]


def test_layer_sweep_finds_the_layer() -> None:
    layers = check_direction(*sides(4.0, places=slice(2, 4)), NAMES).layers
    assert list(layers) == [0, 1, 2]
    assert layers[1].accuracy > 0.95 and max(layers[0].accuracy, layers[2].accuracy) < 0.8


def test_same_seed_same_result_and_folds() -> None:
    hack, clean = sides(1.0)
    assert check_direction(hack, clean, NAMES, seed=1) == check_direction(hack, clean, NAMES, seed=1)
    assert (
        check_direction(hack, clean, NAMES, folds=4).held_out != check_direction(hack, clean, NAMES).held_out
    )
    for folds in (1, 17):
        with pytest.raises(ValueError, match=f"folds={folds}: choose between 2 and the number of pairs, 16"):
            check_direction(hack, clean, NAMES, folds=folds)
    with pytest.raises(ValueError, match="3 pairs: give at least 4"):
        check_direction(hack[:3], clean[:3], NAMES)


def test_a_verdict_joins_reasons() -> None:
    assert verdict(["a", "b"]) == "NOT good enough: a; b"


def bottlenecks(model: PeftModel, ids: Tensor) -> Tensor:
    tuner = lora2r_model(model)
    layout = SequenceLayout(None, torch.ones(ids.shape), len(ids))
    state = tuner.forward_state
    with (
        torch.no_grad(),
        state.gated(None, layout),
        state.reading_features(MeanPooling().reading(tuner)) as read,
    ):
        model(ids)
    return read.features()


def test_the_bottleneck_moves_by_exactly_alpha_v(adapted: PeftModel) -> None:
    tuner = lora2r_model(adapted)
    ids = torch.arange(1, 13).view(2, 6)
    before = bottlenecks(adapted, ids)
    v, lengths = haar_direction((14, 4), seed=0), bottleneck_lengths(before, normalise=True)
    assert lengths.shape == (14,) and lengths[3].item() == pytest.approx(
        before[:, 3].norm(dim=1).mean().item()
    )
    shifts = input_shifts(tuner, v, lengths)
    # one module at a time: a later one also sees what the steering of an earlier one has changed
    for place in range(14):
        alone = [shift if i == place else torch.zeros_like(shift) for i, shift in enumerate(shifts)]
        with steered(tuner, alone, -3.0, prompt=True):
            after = bottlenecks(adapted, ids)
        expected = (-3.0 * lengths[place] * v[place]).expand(2, 4)
        torch.testing.assert_close(after[:, place] - before[:, place], expected, rtol=1e-3, atol=1e-5)
    assert torch.equal(bottlenecks(adapted, ids), before)  # the hooks are gone


def test_only_decoded_tokens_are_steered_unless_asked(adapted: PeftModel) -> None:
    tuner = lora2r_model(adapted)
    shifts = input_shifts(tuner, haar_direction((14, 4), seed=0), torch.ones(14))
    ids = torch.arange(1, 7)[None]
    with torch.no_grad():
        plain, last = adapted(ids).logits, adapted(ids[:, :1]).logits
        with steered(tuner, shifts, 5.0):
            assert torch.equal(adapted(ids).logits, plain) and not torch.equal(
                adapted(ids[:, :1]).logits, last
            )
        with steered(tuner, shifts, 0.0, prompt=True):
            assert torch.equal(adapted(ids).logits, plain)
        with pytest.raises(RuntimeError), steered(tuner, shifts, 5.0, prompt=True):
            raise RuntimeError
        assert torch.equal(adapted(ids).logits, plain)


def test_without_normalisation_all_modules_share_one_unit() -> None:
    features = torch.tensor([[[3.0, 0.0], [0.0, 4.0]]])
    assert bottleneck_lengths(features, normalise=False).tolist() == [5.0, 5.0]
    assert bottleneck_lengths(features, normalise=True).tolist() == [3.0, 4.0]


def test_fishers_exact_test_by_hand() -> None:
    # 3 of 3 against 0 of 3: one way in C(6, 3) = 20
    assert fisher_p(3, 3, 0, 3) == pytest.approx(1 / 20)
    assert fisher_p(2, 3, 0, 3) == pytest.approx(3 / 15)
    assert fisher_p(0, 5, 4, 5) == 1.0
