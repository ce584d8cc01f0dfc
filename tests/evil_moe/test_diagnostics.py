"""Diagnostics against values worked out by hand, and the AUROC against its definition."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evil_moe.diagnostics import (
    auroc,
    cosine,
    drift,
    f_beta,
    gradient_energy,
    policy_mismatch,
    weight_by_class,
)


def test_auroc_by_hand() -> None:
    # hack scores 3, 1; clean scores 2, 0: of four pairs only (1, 2) is in the wrong order
    assert auroc(torch.tensor([3.0, 1.0, 2.0, 0.0]), torch.tensor([1, 1, 0, 0])) == 0.75
    assert auroc(torch.tensor([0.9, 0.1]), torch.tensor([True, False])) == 1.0
    assert auroc(torch.tensor([0.1, 0.9]), torch.tensor([1.0, 0.0])) == 0.0


def test_auroc_ties_count_half() -> None:
    assert auroc(torch.ones(5), torch.tensor([1, 0, 0, 1, 0])) == 0.5
    # hack 1, 2; clean 1, 0: pairs 1-1 half, 1-0, 2-1, 2-0 right
    assert auroc(torch.tensor([1.0, 2.0, 1.0, 0.0]), torch.tensor([1, 1, 0, 0])) == 3.5 / 4


@pytest.mark.parametrize("labels", [[], [0, 0], [1, 1]])
def test_auroc_of_one_class_is_nan(labels: list[int]) -> None:
    assert math.isnan(auroc(torch.zeros(len(labels)), torch.tensor(labels)))


graded = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=30)


@given(graded)
def test_auroc_equals_its_definition(rows: list[tuple[int, bool]]) -> None:
    scores, labels = torch.tensor([float(s) for s, _ in rows]), torch.tensor([hack for _, hack in rows])
    won = [(a > b) + 0.5 * (a == b) for a, x in rows for b, y in rows if x and not y]
    expected = sum(won) / len(won) if won else math.nan
    assert auroc(scores, labels) == pytest.approx(expected, abs=1e-12, nan_ok=True)


@given(graded)
def test_auroc_sees_order_only(rows: list[tuple[int, bool]]) -> None:
    scores, labels = torch.tensor([float(s) for s, _ in rows]), torch.tensor([hack for _, hack in rows])
    assert auroc(torch.exp(scores) * 7 - 2, labels) == pytest.approx(auroc(scores, labels), nan_ok=True)


def test_auroc_refuses_nan_and_odd_labels() -> None:
    with pytest.raises(ValueError, match="NaN"):
        auroc(torch.tensor([math.nan, 1.0]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"\[0, 2\].*0 \(clean\) or 1"):
        auroc(torch.tensor([0.0, 1.0]), torch.tensor([0, 2]))


def test_f_beta_by_hand() -> None:
    # called: the first three. TP 2, FP 1, FN 1: 1.25 * 2 / (1.25 * 2 + 0.25 * 1 + 1) = 2.5 / 3.75
    weights, labels = torch.tensor([0.9, 0.8, 0.7, 0.2, 0.5]), torch.tensor([1, 1, 0, 1, 0])
    assert f_beta(weights, labels) == pytest.approx(2 / 3)
    assert f_beta(weights, labels, beta=1.0) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert f_beta(weights, labels, threshold=0.75) == pytest.approx(2.5 / 2.75)


def test_f_beta_threshold_is_strict_and_edges() -> None:
    half = torch.tensor([0.5, 0.5])
    assert f_beta(half, torch.tensor([1, 0])) == 0.0
    assert math.isnan(f_beta(half, torch.tensor([0, 0])))
    assert f_beta(half + 0.1, torch.tensor([0, 0])) == 0.0


def test_weight_by_class() -> None:
    weights = torch.tensor([1.0, 0.5, 0.25, 0.0])
    assert weight_by_class(weights, torch.tensor([1, 1, 0, 0])) == {"w_hack": 0.75, "w_clean": 0.125}
    only_clean = weight_by_class(weights, torch.zeros(4))
    assert math.isnan(only_clean["w_hack"]) and only_clean["w_clean"] == 0.4375


def test_gradient_energy_splits_rows_of_dA_and_columns_of_dB() -> None:
    grads = {
        "layers.0.q_proj.lora_2r_dA.default.weight": torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]]),
        "layers.0.q_proj.lora_2r_dB": torch.tensor([[1.0, 10.0, 0.0], [2.0, 0.0, 1.0]]),
    }
    # deployed, r = 1: row [1, 2] and column [1, 2]; the rest: 9 + 1 and 100 + 1
    assert gradient_energy(grads, rank_deployed=1) == {"deployed": 10.0, "quarantine": 111.0}
    assert gradient_energy(grads, rank_deployed=3) == {"deployed": 121.0, "quarantine": 0.0}
    assert gradient_energy({}, rank_deployed=1) == {"deployed": 0.0, "quarantine": 0.0}


def test_gradient_energy_in_low_precision() -> None:
    grads = {"lora_2r_dA": torch.full((2, 4096), 2.0**-8, dtype=torch.bfloat16)}
    assert gradient_energy(grads, 1) == {"deployed": 4096 * 2.0**-16, "quarantine": 4096 * 2.0**-16}


@pytest.mark.parametrize(
    ("name", "shape", "rank", "message"),
    [
        ("router.direction", (2, 2), 1, "router.direction"),
        ("x.lora_2r_dA", (4,), 1, r"shape \(4,\)"),
        ("x.lora_2r_dA", (2, 8), 3, "allowed 0..2"),
        ("x.lora_2r_dB", (8, 2), -1, "rank_deployed is -1"),
    ],
)
def test_gradient_energy_refuses(name: str, shape: tuple[int, ...], rank: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gradient_energy({name: torch.zeros(shape)}, rank)


def test_cosine_and_drift() -> None:
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    assert cosine(a, b) == pytest.approx(math.sqrt(0.5))
    assert cosine(a, -3 * a) == -1.0
    assert math.isnan(cosine(a, 0 * a))
    assert drift(a, 2 * a) == 0.0
    assert drift(a, torch.tensor([[0.0, 5.0]])) == 1.0


def test_the_mismatch_says_which_policy_sampled() -> None:
    """By hand: ratios 1, 1/2 and 31 of tokens of the full adapter, 4 of one of the deployed model."""
    log_ratio, by_full = torch.tensor([1.0, 0.5, 31.0, 4.0]).log(), torch.tensor([True, True, True, False])
    found = policy_mismatch(log_ratio, by_full)
    logs = [0.0, math.log(0.5), math.log(31), math.log(4)]
    assert found["log_ratio"] == pytest.approx(sum(logs) / 4)
    assert found["kl"] == pytest.approx((0 - 0.5 + 30 + 3 - sum(logs)) / 4)
    assert [found[f"ratio_max{of}"] for of in ("", "_full", "_deployed")] == pytest.approx([31, 31, 4])
    assert policy_mismatch(log_ratio, torch.ones(4, dtype=torch.bool))["ratio_max_deployed"] == 0
