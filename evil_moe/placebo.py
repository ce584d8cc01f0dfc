"""A random direction that routes as many rollouts as the pairs' direction would: the matched placebo.

A random direction by itself has no gap between two sides, so its threshold is the median of the first rollouts, and half of them
go to the quarantine where the pairs' direction sends a few. What then differs from the router is the share, too. Here, step by step and
on the same rollouts, with no label looked at:

    n_k   = number of rollouts with  cos(h, pairs_k) > t_k,      t_k as the router has it (`set_rollout_threshold`)
    the random direction's threshold lies between its n-th and its (n+1)-th largest score, at the same place between
    the two as t_k has between the pairs' direction's
    scale = the pairs' direction's times  std(cos(h, pairs_k)) / std(cos(h, random_k))

So w > 0.5 in as many rollouts, and as decidedly. Which ones is what is left to the direction. It is a control of the `frozen`
direction: neither learns.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from evil_moe.router import Router
from evil_moe.thresholds import ThresholdRule


class MatchedPlacebo(Router):
    """A router of which threshold and scale follow from the pairs' direction, at every step.

    Attributes:
        pairs_direction, pairs_threshold, pairs_scale: what it is matched with; shapes as `direction`, `rollout_threshold`, `scale`.
    """

    pairs_direction: Tensor
    pairs_threshold: Tensor
    pairs_scale: Tensor

    def __init__(self, num_modules: int, rank: int, **options: bool | int):
        super().__init__(num_modules, rank, **options)  # type: ignore[arg-type]
        self.register_buffer("pairs_direction", torch.zeros_like(self.seed_direction))
        for name in ("pairs_threshold", "pairs_scale"):
            self.register_buffer(name, torch.full_like(self.scale, float("nan")))

    @torch.no_grad()
    def become_placebo(self, direction: Float[Tensor, "M K r"]) -> None:
        """Keep the pairs' direction and scale, and start from `direction`."""
        self.pairs_direction.copy_(self.seed_direction)
        self.pairs_scale.copy_(self.scale)
        self.seed_direction.copy_(direction)

    def eyes(self, direction: Float[Tensor, "M K r"] | None = None) -> Float[Tensor, "N M r"]:
        """The random directions, and behind them the pairs': each looks for its own windows."""
        return torch.cat([super().eyes(direction), self.pairs_direction.transpose(0, 1)])

    def pairs_scores(self, features: Float[Tensor, "B *W M r"]) -> Float[Tensor, "B K"]:
        """`cos(h, v_k)` along the pairs' direction."""
        own = self.pairs_direction.shape[1] * self.windows
        return self.block_scores(features if features.ndim == 3 else features[:, own:], self.pairs_direction)

    @torch.no_grad()
    def observe(
        self, scores: Float[Tensor, "B K"], pairs_scores: Float[Tensor, "B K"], rule: ThresholdRule
    ) -> None:
        """Match a step's rollouts, of all ranks: `scores` along the random direction, `pairs_scores` along the pairs'. The first
        step's set the pairs' threshold, by `rule`."""
        if not torch.isfinite(self.pairs_threshold).all():
            self.set_rollout_threshold(pairs_scores, rule)
            self.pairs_threshold.copy_(self.rollout_threshold)
        matched = [
            match(own, pairs, float(threshold))
            for own, pairs, threshold in zip(
                scores.unbind(1), pairs_scores.unbind(1), self.pairs_threshold.view(-1), strict=True
            )
        ]
        threshold, stretch = (torch.tensor(column).to(self.scale) for column in zip(*matched, strict=True))
        self.rollout_threshold.copy_(threshold.view_as(self.scale))
        self.scale.copy_(self.pairs_scale * stretch.view_as(self.scale))


def match(own: Float[Tensor, " B"], pairs: Float[Tensor, " B"], threshold: float) -> tuple[float, float]:
    """The threshold of `own` that as many exceed as exceed `threshold` in `pairs`, and how much less far `own` spreads."""
    own, pairs = own.double().sort(descending=True).values, pairs.double().sort(descending=True).values
    stretch = float(pairs.std(correction=0) / own.std(correction=0).clamp(min=1e-9))
    above = int((pairs > threshold).sum())
    if above == 0:  # as far above all as it is there
        return float(own[0]) + (threshold - float(pairs[0])) / max(stretch, 1e-9), stretch
    if above == len(pairs):
        return float(own[-1]) - (float(pairs[-1]) - threshold) / max(stretch, 1e-9), stretch
    over, under = float(pairs[above - 1]), float(pairs[above])
    place = (threshold - under) / (over - under)
    return float(own[above]) + place * float(own[above - 1] - own[above]), stretch
