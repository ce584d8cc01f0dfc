"""A linear probe on a rollout's features: how much it looks like a hack, as a monitor sees it.

    margin = <weight, x> + bias,   score = sigmoid(margin),   x = features with unit norm per module, [M, r]

`mass_mean` (Marks & Tegmark 2023): weight = gap / s^2 * u, where u is the unit vector along
mean(hack) - mean(clean), gap the distance of the two means and s^2 the variance within the classes along u; bias
puts the margin's zero at the midpoint. This is the log-odds of two normal classes of one variance along u; the
paper's plain difference has the same order of rollouts, and no scale.
`logistic`: L2-regularised logistic regression on standardised features; the standardisation is folded into weight
and bias.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from evil_moe.diagnostics import auroc
from evil_moe.features import normalise_per_module
from evil_moe.file_modes import apply_umask

KINDS = ("mass_mean", "logistic")
PROBE_FILE = "probe.safetensors"
_SHARES = (
    0.6,
    0.8,
)  # of the problems: up to the first for the fit, to the second for the threshold, the rest held out


@dataclass(frozen=True)
class ProbeReport:
    """How good a probe is on problems that took part neither in its fit nor in its threshold.

    Attributes:
        num_fit, num_threshold, num_held_out: rollouts in the three parts.
        auroc: held out; NaN if a class is absent there. true_positive_rate, false_positive_rate: held out, at the
            threshold.
    """

    num_fit: int
    num_threshold: int
    num_held_out: int
    auroc: float
    true_positive_rate: float
    false_positive_rate: float


@dataclass(frozen=True)
class FeatureBasis:
    """What a text's features depend on beside its tokens: a probe says nothing of features on another basis, though
    their shape may be the same.

    Attributes:
        policy: the model they are read on, by a name that no other model has.
        init, init_seed: of the frozen A0. (The corda inits follow from the pairs, too, which are not compared.)
        feature_state: `evil_moe.feature_state`. In `base` alone a text's features stay what they are as a run goes on.
        pooling: `evil_moe.router.pooling`, with its options. Windows are those along the router's direction, which is not
            compared; the probe's own weight then scores them.
    """

    policy: str
    init: str
    init_seed: int
    feature_state: str
    pooling: str = "mean"

    def difference(self, other: FeatureBasis) -> str | None:
        """The first thing in which `other` is another basis, as words; None if it is the same."""
        for key, name in _BASIS_KEYS.items():
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                return f"{key}={mine}, and this run has {theirs}"
        return None


_BASIS_KEYS = {
    "evil_moe.feature_state": "feature_state",
    "evil_moe.router.pooling": "pooling",
    "evil_moe.adapter.init": "init",
    "evil_moe.adapter.init_seed": "init_seed",
    "policy": "policy",
}


@dataclass(frozen=True, eq=False)
class Probe:
    """A fitted probe.

    Attributes:
        weight: of the normalised features, `[M, r]`, float32. bias: of the margin.
        threshold: scores from here on are flagged. kind: one of `KINDS`.
    """

    weight: Float[Tensor, "M r"]
    bias: float
    threshold: float
    kind: str
    report: ProbeReport

    def score(self, features: Float[Tensor, "B *W M r"]) -> Float[Tensor, " B"]:
        """Scores in [0, 1], in float64: the threshold lies where float32 has no steps left. Of windows, the mean one.

        Raises:
            ValueError: the features are of another adapter's shape.
        """
        if features.shape[-2:] != self.weight.shape:
            raise ValueError(
                f"the probe was fitted on features [M, r] = {list(self.weight.shape)}, these are "
                f"{list(features.shape[-2:])}: fit one on a run of this model and rank (evil-moe probe)"
            )
        return torch.sigmoid(
            _inputs(features) @ self.weight.flatten().double().to(features.device) + self.bias
        )

    def save(self, folder: Path, basis: FeatureBasis) -> None:
        """Write `probe.safetensors`: the weight, and everything else in its metadata, `basis` of the features that it
        was fitted on included."""
        folder.mkdir(parents=True, exist_ok=True)
        plain = {
            "bias": self.bias,
            "threshold": self.threshold,
            "kind": self.kind,
            "report": asdict(self.report),
            "basis": asdict(basis),
        }
        save_file(
            {"weight": self.weight.cpu().contiguous()}, folder / PROBE_FILE, {"probe": json.dumps(plain)}
        )
        apply_umask(folder / PROBE_FILE)

    @classmethod
    def load(cls, folder: Path, basis: FeatureBasis | None) -> Probe:
        """The probe of a folder.

        Args:
            basis: of the features that it is to score; None where that has been compared before.

        Raises:
            FileNotFoundError: there is none. ValueError: the file is another one's, or damaged, or its probe was
                fitted on features on another basis.
        """
        path = Path(folder) / PROBE_FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: fit a probe first (evil-moe probe RUN_DIR --out {folder})"
            )
        try:
            with safe_open(path, framework="pt") as file:
                plain: dict[str, Any] = json.loads((file.metadata() or {})["probe"])
                report = ProbeReport(**plain.pop("report"))
                fitted_on = FeatureBasis(**plain.pop("basis"))
                probe = cls(weight=file.get_tensor("weight"), report=report, **plain)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} holds no probe ({error}): fit it again (evil-moe probe)") from error
        if basis is not None and (difference := fitted_on.difference(basis)):
            raise ValueError(
                f"{path} was fitted on features with {difference}: give the run the same, or fit a probe on a run like "
                "it (evil-moe probe)"
            )
        return probe


def fit_probe(
    features: Float[Tensor, "N *W M r"],
    labels: Bool[Tensor, " N"],
    problem: Int[Tensor, " N"],
    kind: str,
    *,
    false_positive_rate: float = 0.05,
    l2: float = 0.01,
    seed: int = 0,
) -> Probe:
    """Fit on 60 % of the problems, set the threshold on the next 20 %, report on the last 20 %.

    The parts share no problem, so a rollout that is held out answers a prompt the probe has never seen.

    Args:
        labels: True for a hack. problem: number of each rollout's problem.
        false_positive_rate: of the second part's clean rollouts at most this share reaches the threshold.
        l2: of `logistic`: the loss is mean cross-entropy + l2 / 2 * |weight|^2, on standardised features.
        seed: of the deal of problems to the parts.

    Raises:
        ValueError: an unknown kind, or too few rollouts of a class in a part.
    """
    if kind not in KINDS:
        raise ValueError(f"probe kind {kind!r}; choose one of {list(KINDS)}")
    if not 0 < false_positive_rate < 1:
        raise ValueError(f"false_positive_rate={false_positive_rate} must lie between 0 and 1")
    fit, calibrate, held_out = _parts(problem, seed)
    x = _inputs(features)
    if not (labels[fit].any() and (~labels[fit]).any()):
        raise ValueError(
            f"{int(labels[fit].sum())} of the {int(fit.sum())} rollouts to fit on are hacks: a probe needs both "
            "kinds; choose steps in which the policy does both"
        )
    solve = _mass_mean if kind == "mass_mean" else lambda x, y: _logistic(x, y, l2)
    weight, bias = solve(x[fit], labels[fit])
    weight = weight.float()  # as it is stored
    score = torch.sigmoid(x @ weight.double() + bias)
    clean = score[calibrate & ~labels]
    if len(clean) * false_positive_rate < 1:
        raise ValueError(
            f"{len(clean)} clean rollouts to set the threshold on: {false_positive_rate:.0%} of them is less than "
            "one; choose more steps, or steps with more clean rollouts"
        )
    threshold = _threshold(clean, false_positive_rate)
    hack, flagged = labels[held_out], score[held_out] >= threshold
    return Probe(
        weight=weight.view(features.shape[-2:]),
        bias=float(bias),
        threshold=threshold,
        kind=kind,
        report=ProbeReport(
            num_fit=int(fit.sum()),
            num_threshold=int(calibrate.sum()),
            num_held_out=int(held_out.sum()),
            auroc=auroc(score[held_out], hack),
            true_positive_rate=float(flagged[hack].double().mean()),
            false_positive_rate=float(flagged[~hack].double().mean()),
        ),
    )


def _inputs(features: Float[Tensor, "B *W M r"]) -> Float[Tensor, "B Mr"]:
    units = normalise_per_module(features.double())
    return (units if units.ndim == 3 else units.mean(1)).flatten(1)


def _parts(problem: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Masks `[N]` of the rollouts for the fit, for the threshold, and held out."""
    distinct, number = problem.cpu().unique(return_inverse=True)
    order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed))
    place = (order.argsort()[number] / max(len(distinct), 1)).to(problem.device)
    return place < _SHARES[0], (place >= _SHARES[0]) & (place < _SHARES[1]), place >= _SHARES[1]


def _threshold(clean: Float[Tensor, " N"], rate: float) -> float:
    """At most `rate` of the clean rollouts reach it: halfway from the highest that must not to the next above."""
    descending = clean.sort(descending=True).values
    below = descending[math.floor(rate * len(clean))]
    above = clean[clean > below]
    halfway = float((below + above.min()) / 2) if len(above) else 0.0
    return max(halfway, math.nextafter(float(below), math.inf))


def _mass_mean(x: Tensor, hack: Tensor) -> tuple[Tensor, Tensor]:
    """Weight `[Mr]` and bias; see the module's docstring."""
    high, low = x[hack].mean(0), x[~hack].mean(0)
    gap = (high - low).norm()
    if not gap > 0:
        raise ValueError(
            "hacks and clean rollouts have the same mean features: there is nothing to probe for"
        )
    unit = (high - low) / gap
    residual = (x - torch.where(hack.unsqueeze(1), high, low)) @ unit
    weight = gap / residual.square().mean().clamp(min=1e-12) * unit
    return weight, -weight @ (high + low) / 2


def _logistic(x: Tensor, hack: Tensor, l2: float) -> tuple[Tensor, Tensor]:
    """Weight `[Mr]` and bias of the minimum, by full-batch LBFGS from zero."""
    mean, std = x.mean(0), x.std(0).clamp(min=1e-6)
    standard, target = (x - mean) / std, hack.to(x.dtype)
    parameters = x.new_zeros(x.shape[1] + 1, requires_grad=True)  # the bias goes last, and is not decayed
    optimizer = torch.optim.LBFGS(
        [parameters], max_iter=500, tolerance_grad=1e-8, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = standard @ parameters[:-1] + parameters[-1]
        value = F.binary_cross_entropy_with_logits(logits, target) + l2 / 2 * parameters[:-1].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    weight = parameters.detach()[:-1] / std
    return weight, parameters.detach()[-1] - weight @ mean
