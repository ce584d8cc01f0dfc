"""Probes: what they find in made-up features, where their threshold comes from, and what they refuse."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from evil_moe.diagnostics import auroc
from evil_moe.features import normalise_per_module
from evil_moe.probe import PROBE_FILE, FeatureBasis, Probe, fit_probe

BASIS = FeatureBasis(policy="nano-policy-1", init="gaussian", init_seed=0, feature_state="base")
KINDS = ("mass_mean", "logistic")


def rollouts(n: int = 1200, gap: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Features [n, 3, 4] of n / 4 problems, hacks moved along one direction by `gap`."""
    generator = torch.Generator().manual_seed(seed)
    hack = torch.rand(n, generator=generator) < 0.4
    direction = torch.randn(3, 4, generator=torch.Generator().manual_seed(100))
    features = 1 + torch.randn(n, 3, 4, generator=generator) + gap * hack[:, None, None] * direction
    return features, hack, torch.arange(n) // 4


def fitted(problem: Tensor, seed: int = 0) -> Tensor:
    """Mask of the rollouts that `fit_probe` fits on, for problems numbered from 0."""
    n = int(problem.max()) + 1
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed)).argsort()[problem] < 0.6 * n


@pytest.mark.parametrize("kind", KINDS)
def test_finds_hacks_of_unseen_problems(kind: str) -> None:
    features, hack, problem = rollouts()
    probe = fit_probe(features, hack, problem, kind)
    report = probe.report
    assert (report.num_fit, report.num_threshold, report.num_held_out) == (720, 240, 240)
    assert report.auroc > 0.85 and report.true_positive_rate > 3 * report.false_positive_rate
    fresh, labels, _ = rollouts(seed=1)
    assert auroc(probe.score(fresh), labels) == pytest.approx(report.auroc, abs=0.06)
    assert ((probe.score(fresh) >= 0) & (probe.score(fresh) <= 1)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_labels_that_say_nothing_find_nothing(kind: str) -> None:
    """Held-out means held out: the fit of 720 rollouts with random labels does not show in the report."""
    features, _, problem = rollouts(gap=0.0)
    labels = torch.rand(1200, generator=torch.Generator().manual_seed(5)) < 0.4
    assert abs(fit_probe(features, labels, problem, kind).report.auroc - 0.5) < 4 * math.sqrt(
        1 / 12 * (1 / 96 + 1 / 144)
    )


def test_held_out_is_by_problem() -> None:
    """Each problem has a signature of its own and one label: only a split by rollout would carry it over."""
    generator = torch.Generator().manual_seed(0)
    problem = torch.arange(1200) % 240
    signature = torch.randn(240, 16, 16, generator=generator)
    labels = (torch.rand(240, generator=generator) < 0.5)[problem]
    features = signature[problem] + 0.05 * torch.randn(1200, 16, 16, generator=generator)
    probe = fit_probe(features, labels, problem, "logistic")
    fit = fitted(problem)
    assert auroc(probe.score(features[fit]), labels[fit]) > 0.99
    assert probe.report.auroc < 0.8


@pytest.mark.parametrize("kind", KINDS)
def test_threshold_has_its_false_positive_rate_on_new_rollouts(kind: str) -> None:
    features, hack, problem = rollouts(n=12_000)
    probe = fit_probe(features, hack, problem, kind, false_positive_rate=0.05)
    n_threshold, n_held_out = 1440, 1440  # about 60 % of 2400 each; both are draws
    error = math.sqrt(0.05 * 0.95 * (1 / n_threshold + 1 / n_held_out))
    assert abs(probe.report.false_positive_rate - 0.05) < 4 * error


def test_threshold_with_ties_stays_below_its_rate() -> None:
    """Scores of two values: 30 of 100 clean rollouts tie at the upper one, so neither may be flagged."""
    features = torch.zeros(1000, 1, 2)
    features[:, 0, 0], features[:, 0, 1] = 1.0, 0.1
    hack = torch.arange(1000) % 2 == 0
    upper = hack | (torch.arange(1000) % 10 < 3)
    features[upper, 0, 1] = 0.2
    report = fit_probe(features, hack, torch.arange(1000), "mass_mean").report
    assert report.false_positive_rate == 0 and report.true_positive_rate == 0


def test_mass_mean_by_hand() -> None:
    """Its weight lies along the difference of the class means, its margin is 0 halfway between them."""
    features, hack, problem = rollouts(n=400)
    every = torch.cat([features] * 2)  # both copies of a problem land in the same part
    probe = fit_probe(every, hack.repeat(2), problem.repeat(2), "mass_mean")
    fit = fitted(problem)
    x = normalise_per_module(features)[fit]
    high, low = x[hack[fit]].mean(0), x[~hack[fit]].mean(0)
    cosine = torch.cosine_similarity((high - low).flatten(), probe.weight.flatten(), dim=0)
    assert cosine.item() == pytest.approx(1.0, abs=1e-6)
    middle = ((high + low) / 2 * probe.weight).sum() + probe.bias
    assert middle.item() == pytest.approx(0.0, abs=1e-4)


def test_logistic_is_at_the_minimum() -> None:
    """The gradient of the stated loss, worked out anew in the standardised space, is zero there."""
    features, hack, problem = rollouts(n=400)
    probe = fit_probe(features, hack, problem, "logistic", l2=0.1)
    fit = fitted(problem)
    x = normalise_per_module(features.double()).flatten(1)[fit]
    y, std = hack[fit].double(), x.std(0)
    z = (x - x.mean(0)) / std
    residual = (x @ probe.weight.flatten().double() + probe.bias).sigmoid() - y
    gradient = z.T @ residual / len(y) + 0.1 * probe.weight.flatten().double() * std
    assert gradient.abs().max() < 1e-6 and abs(residual.mean()) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_it_scores_the_same(kind: str, tmp_path: Path) -> None:
    features, hack, problem = rollouts()
    probe = fit_probe(features, hack, problem, kind)
    probe.save(tmp_path / "probe", BASIS)
    loaded = Probe.load(tmp_path / "probe", BASIS)
    assert torch.equal(loaded.score(features), probe.score(features))
    assert (loaded.threshold, loaded.kind, loaded.report) == (probe.threshold, kind, probe.report)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"init_seed": 1}, r"evil_moe\.adapter\.init_seed=0, and this run has 1"),
        ({"init": "pissa"}, r"evil_moe\.adapter\.init=gaussian, and this run has pissa"),
        ({"feature_state": "rollout"}, r"evil_moe\.feature_state=base, and this run has rollout"),
        ({"policy": "another"}, r"policy=nano-policy-1, and this run has another"),
    ],
)
def test_features_on_another_basis_are_refused(other: dict, message: str, tmp_path: Path) -> None:
    """Their shape is the same, and the scores would be noise."""
    fit_probe(*rollouts(), "mass_mean").save(tmp_path, BASIS)
    with pytest.raises(ValueError, match=message + r".*fit a probe on a run like it \(evil-moe probe\)"):
        Probe.load(tmp_path, replace(BASIS, **other))
    assert Probe.load(tmp_path, None).kind == "mass_mean"


def test_errors_name_what_is_wrong(tmp_path: Path) -> None:
    features, hack, problem = rollouts()
    with pytest.raises(ValueError, match=r"'lda'; choose one of \['mass_mean', 'logistic'\]"):
        fit_probe(features, hack, problem, "lda")
    with pytest.raises(ValueError, match="0 of the 720 rollouts to fit on are hacks"):
        fit_probe(features, torch.zeros_like(hack), problem, "logistic")
    with pytest.raises(ValueError, match="less than one; choose more steps"):
        fit_probe(features[:80], hack[:80], problem[:80], "logistic")
    probe = fit_probe(features, hack, problem, "mass_mean")
    with pytest.raises(ValueError, match=r"\[3, 4\], these are \[2, 4\]"):
        probe.score(features[:, :2])
    with pytest.raises(FileNotFoundError, match="evil-moe probe"):
        Probe.load(tmp_path, None)
    save_file({"weight": torch.zeros(3, 4)}, tmp_path / PROBE_FILE)
    with pytest.raises(ValueError, match="holds no probe"):
        Probe.load(tmp_path, None)
    (tmp_path / PROBE_FILE).write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="holds no probe"):
        Probe.load(tmp_path, None)
