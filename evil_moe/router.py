"""The router: one weight per rollout from the cosine of its features with a trainable direction.

    s = cos(h, v);   w = sigmoid(scale * (s - threshold))

`v: [M, r]` starts at a seeded direction. There are two thresholds (design, section 7): the pin's, the midpoint
of the two sides of the pairs, and the rollouts', the median score of base-policy rollouts plus a fraction of
the pairs' gap. The second assumes that hacks are rare at the start; with the pairs' midpoint every rollout of
a policy far from the pairs would get the same weight.
"""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from evil_moe.features import normalise_per_module


class Router(nn.Module):
    """Scores and weights of rollouts.

    Args:
        num_modules: M. rank: r.
        normalise: unit features per module before the cosine.
        learn: whether `v` takes gradient at all (the `frozen` arm: no).

    Attributes:
        direction: v, `[M, r]`.
        seed_direction: v at the start, to measure drift.
        scale, pin_threshold, rollout_threshold: scalars; `rollout_threshold` is NaN until `set_rollout_threshold`.
        gap: distance of the two sides' mean scores at the start; sets the scale and the rollouts' threshold.
    """

    def __init__(self, num_modules: int, rank: int, *, normalise: bool = True, learn: bool = True):
        super().__init__()
        self.normalise = normalise
        self.direction = nn.Parameter(torch.zeros(num_modules, rank), requires_grad=learn)
        self.register_buffer("seed_direction", torch.zeros(num_modules, rank))
        for name in ("scale", "pin_threshold", "rollout_threshold", "gap"):
            self.register_buffer(name, torch.tensor(float("nan")))

    seed_direction: Tensor
    scale: Tensor
    pin_threshold: Tensor
    rollout_threshold: Tensor
    gap: Tensor

    def prepare(self, features: Float[Tensor, "B M r"]) -> Float[Tensor, "B M r"]:
        """Features as the cosine sees them."""
        return normalise_per_module(features) if self.normalise else features

    def score(self, features: Float[Tensor, "B M r"], direction: Tensor | None = None) -> Float[Tensor, " B"]:
        """`cos(h, v)` over all of `[M, r]`; `direction` stands in for `v` where `v` is sharded."""
        v = self.direction if direction is None else direction
        return F.cosine_similarity(
            self.prepare(features).flatten(1), v.to(features.dtype).flatten()[None], dim=1
        )

    def logit(self, score: Float[Tensor, " B"], threshold: Tensor) -> Float[Tensor, " B"]:
        """`scale * (s - threshold)`."""
        return self.scale * (score - threshold)

    def weight(
        self, features: Float[Tensor, "B M r"], direction: Tensor | None = None
    ) -> Float[Tensor, " B"]:
        """`w` of rollouts, differentiable in the direction.

        Raises:
            RuntimeError: the rollouts' threshold has not been set yet.
        """
        if not self.is_calibrated:
            raise RuntimeError(
                "the router has no threshold for rollouts yet: call set_rollout_threshold first"
            )
        return torch.sigmoid(self.logit(self.score(features, direction), self.rollout_threshold))

    @property
    def is_calibrated(self) -> bool:
        """Whether the rollouts' threshold is set."""
        return bool(torch.isfinite(self.rollout_threshold))

    @torch.no_grad()
    def calibrate_on_pairs(self, hack: Tensor, clean: Tensor, direction: Tensor, *, gain: float) -> None:
        """Set gap, scale (= gain / gap) and the pin's threshold from the sides `[P, M, r]` and the start direction."""
        s_hack, s_clean = self.score(hack, direction).mean(), self.score(clean, direction).mean()
        self.gap.copy_(s_hack - s_clean)
        self.scale.copy_(gain / self.gap.abs().clamp(min=1e-3))
        self.pin_threshold.copy_((s_hack + s_clean) / 2)
        self.seed_direction.copy_(direction)

    @torch.no_grad()
    def become_placebo(self, direction: Float[Tensor, "M r"]) -> None:
        """Control: a random direction with the seeded one's scale; it has no gap, so rollouts split at the median."""
        self.seed_direction.copy_(direction)
        self.gap.zero_()

    @torch.no_grad()
    def set_rollout_threshold(self, base_scores: Float[Tensor, " B"] | None, *, fraction: float) -> None:
        """Threshold of rollouts: `median(base_scores) + fraction * gap`; None: the pairs' midpoint."""
        if base_scores is None:
            self.rollout_threshold.copy_(self.pin_threshold)
        else:
            self.rollout_threshold.copy_(base_scores.median() + fraction * self.gap)
