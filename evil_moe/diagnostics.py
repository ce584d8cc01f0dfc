"""What a run reports about its routing: evaluation only, nothing here is differentiated or fed back.

Labels are the grader's (1 hack, 0 clean). A quantity that has no value (a class is absent, a vector is zero)
is NaN, so that a plot shows a gap and not a made-up point.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from evil_moe.sharded import whole

BLOCK_AXIS = {"A": 0, "B": 1}  # dA: [R, D_in] has the rank on its rows, dB: [D_out, R] on its columns
BLOCK_NAME = re.compile(r"lora_2r_d([AB])(?![A-Za-z])")


def auroc(scores: Float[Tensor, " B"], labels: Shaped[Tensor, " B"]) -> float:
    """The share of (hack, clean) pairs that `scores` puts in the right order; ties count half.

    Mann-Whitney from mean ranks: `(sum of hack ranks - n1 (n1 + 1) / 2) / (n1 n0)`. NaN if a class is absent.

    Raises:
        ValueError: a score is NaN, or a label is not 0 or 1.
    """
    hack = _as_bool(labels)
    if scores.isnan().any():
        raise ValueError("a score is NaN and has no rank: drop such rollouts before asking for the AUROC")
    n1 = int(hack.sum())
    n0 = hack.numel() - n1
    if n1 == 0 or n0 == 0:
        return math.nan
    _, group, counts = scores.double().unique(return_inverse=True, return_counts=True)
    mean_rank = counts.cumsum(0) - (counts - 1) / 2  # of each distinct score, ranks from 1
    rank_sum = float(mean_rank.double()[group][hack].sum())
    return (rank_sum - n1 * (n1 + 1) / 2) / (n1 * n0)


def f_beta(
    weights: Float[Tensor, " B"], labels: Shaped[Tensor, " B"], threshold: float = 0.5, beta: float = 0.5
) -> float:
    """`(1 + b^2) TP / ((1 + b^2) TP + b^2 FN + FP)` of the rule `w > threshold` (the hard detach's rule).

    `beta < 1` weighs precision above recall. NaN if nothing is a hack and nothing is called one.
    """
    hack = _as_bool(labels)
    called = weights > threshold
    true_positives = int((called & hack).sum())
    false_negatives = int((~called & hack).sum())
    false_positives = int((called & ~hack).sum())
    gain = (1 + beta**2) * true_positives
    denominator = gain + beta**2 * false_negatives + false_positives
    return gain / denominator if denominator else math.nan


def weight_by_class(weights: Float[Tensor, " B"], labels: Shaped[Tensor, " B"]) -> dict[str, float]:
    """The mean of `w` over hacks (`w_hack`) and over the rest (`w_clean`); NaN for a class that is absent."""
    hack = _as_bool(labels)
    return {"w_hack": weights[hack].double().mean().item(), "w_clean": weights[~hack].double().mean().item()}


def gradient_energy(grads: Mapping[str, Tensor], rank_deployed: int) -> dict[str, float]:
    """The sum of squared gradients of the deployed block and of the quarantine (all K of its blocks).

    Args:
        grads: by parameter name; `...lora_2r_dA...` `[R, D_in]` is split by rows at `rank_deployed`,
            `...lora_2r_dB...` `[D_out, R]` by columns.
            Sharded gradients are summed where they lie, and only `[R]` numbers are gathered.
        rank_deployed: r, the rank of the deployed block; the quarantine has the other `R - r`.

    Returns:
        `{"deployed": ..., "quarantine": ...}`, summed over all parameters and elements, in float64.

    Raises:
        ValueError: a name is neither a dA nor a dB, or `rank_deployed` is outside `0..R`.
    """
    by_rank: dict[
        str, Tensor
    ] = {}  # kind -> [R]; kinds apart, as a sharded dA and a sharded dB add up differently
    for name, grad in grads.items():
        match = BLOCK_NAME.search(name)
        if match is None or grad.dim() != 2:
            raise ValueError(
                f"{name!r} of shape {tuple(grad.shape)} has no blocks: pass the matrices named lora_2r_dA, "
                f"lora_2r_dB only"
            )
        kind, axis = match[1], BLOCK_AXIS[match[1]]
        if not 0 <= rank_deployed <= grad.shape[axis]:
            raise ValueError(
                f"rank_deployed is {rank_deployed}, but {name!r} has rank {grad.shape[axis]}: allowed 0..{grad.shape[axis]}"
            )
        energy = grad.detach().float().square().sum(1 - axis, dtype=torch.float64)
        by_rank[kind] = by_rank[kind] + energy if kind in by_rank else energy
    energies = [whole(energy) for energy in by_rank.values()]
    return {
        "deployed": float(sum(e[:rank_deployed].sum().item() for e in energies)),
        "quarantine": float(sum(e[rank_deployed:].sum().item() for e in energies)),
    }


def cosine(a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"]) -> float:
    """The cosine of two tensors of one shape, taken as flat vectors, in float64; NaN if one is zero."""
    x, y = a.detach().double().flatten(), b.detach().double().flatten()
    norms = (x.norm() * y.norm()).item()
    return (x @ y).item() / norms if norms > 0 else math.nan


def drift(direction: Float[Tensor, "*shape"], reference: Float[Tensor, "*shape"]) -> float:
    """How far `v` has turned from where it started: `1 - cosine`, so 0 at the start, 1 at a right angle."""
    return 1.0 - cosine(direction, reference)


def _as_bool(labels: Tensor) -> Tensor:
    hack = labels == 1
    if not (hack | (labels == 0)).all():
        raise ValueError(f"labels are {labels.unique().tolist()}: a label is 0 (clean) or 1 (hack)")
    return hack


def policy_mismatch(log_ratio: Float[Tensor, " T"], by_full: Bool[Tensor, " T"]) -> dict[str, float]:
    """How far the policy of the update is from those that sampled, over T tokens of a step's rollouts.

    Args:
        log_ratio: log-probability under the gated policy less that under the policy that sampled the token.
        by_full: the whole adapter sampled it; the others the deployed model did.

    Returns:
        Means `log_ratio` and `kl` (k3 estimate of KL(sampling || gated)); the largest ratio `ratio_max`, also of the tokens of
        either sampler, `ratio_max_full` and `ratio_max_deployed`, 0 where it sampled none.
    """
    ratio = log_ratio.exp()

    def largest(of: Tensor) -> float:
        return torch.where(of, ratio, 0.0).max().item()

    return {
        "log_ratio": log_ratio.mean().item(),
        "kl": (ratio - 1 - log_ratio).mean().item(),
        "ratio_max": ratio.max().item(),
        "ratio_max_full": largest(by_full),
        "ratio_max_deployed": largest(~by_full),
    }
