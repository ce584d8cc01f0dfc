"""The router: one weight per rollout from the cosine of its features with a trainable direction.

    s = cos(h, v);   l = scale * (s - threshold);   w = sigmoid(l)

`v: [M, r]` starts at a seeded direction; K quarantine blocks have one each, and `evil_moe.gates.router` says how their
logits become weights. There are two thresholds (docs/architecture.md): the pin's, the midpoint of the two sides of the
pairs, and the rollouts', from the scores of base-policy rollouts (`evil_moe.thresholds`). The second assumes that hacks are
rare at the start; with the pairs' midpoint every rollout of a policy far from the pairs would get the same weight.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn as nn
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from evil_moe.features import normalise_per_module
from evil_moe.gates.base import RolloutSignals
from evil_moe.thresholds import ThresholdRule


class Router(nn.Module):
    """Scores and logits of rollouts.

    Args:
        num_modules: M. rank: r. num_blocks: K.
        windows: features of a rollout along each direction, where its pooling looks along them (`evil_moe.features`).
        normalise: unit features per module before the cosine.
        learn: whether `v` takes gradient at all (the `frozen` arm: no).
        anchored: as `v` turns, the rollouts' threshold goes with the mean score of the anchor.

    Attributes:
        direction: v of every block, `[M, K, r]`: modules first, which is the axis that FSDP shards.
        seed_direction: v at the start, to measure drift.
        scale, pin_threshold, rollout_threshold: of every block, `[K]`, or scalars for one block; `rollout_threshold` is NaN
            until `set_rollout_threshold`. A threshold for each, because what all rollouts share scores differently with each
            direction, and would else decide which block every one of them prefers.
        anchor: mean unit feature of the rollouts that set the threshold, `[M, r]`; zero until then.
        gap: distance of the two sides' mean scores at the start; sets the scale and the rollouts' threshold. As `scale`.
        clean_level: mean score of rollouts that the router holds for clean, followed by `follow`; NaN until then. As `scale`.
    """

    def __init__(
        self,
        num_modules: int,
        rank: int,
        *,
        num_blocks: int = 1,
        normalise: bool = True,
        learn: bool = True,
        anchored: bool = False,
        windows: int = 1,
    ):
        super().__init__()
        self.normalise, self.anchored, self.windows = normalise, anchored, windows
        shape = (num_modules, num_blocks, rank)
        self.direction = nn.Parameter(torch.zeros(shape), requires_grad=learn)
        self.register_buffer("seed_direction", torch.zeros(shape))
        self.register_buffer("anchor", torch.zeros(num_modules, rank))
        of_blocks = () if num_blocks == 1 else (num_blocks,)
        for name in ("scale", "pin_threshold", "rollout_threshold", "gap", "clean_level"):
            self.register_buffer(name, torch.full(of_blocks, float("nan")))

    seed_direction: Tensor
    anchor: Tensor
    scale: Tensor
    pin_threshold: Tensor
    rollout_threshold: Tensor
    gap: Tensor
    clean_level: Tensor

    @classmethod
    def from_state(
        cls, state: dict[str, Tensor], *, normalise: bool = True, anchored: bool = False, windows: int = 1
    ) -> Router:
        """The router of a saved state."""
        num_modules, num_blocks, rank = state["direction"].shape
        router = cls(
            num_modules, rank, num_blocks=num_blocks, normalise=normalise, anchored=anchored, windows=windows
        )
        state = {
            name: value for name, value in state.items() if not name.startswith("pairs_")
        }  # of a placebo
        router.load_state_dict({"anchor": router.anchor, **state})  # which runs before 2026-11-22 have not
        return router

    def eyes(self, direction: Float[Tensor, "M K r"] | None = None) -> Float[Tensor, "N M r"]:
        """The directions that a pooling looks along, without gradient: those of the blocks, in their order."""
        return (self.direction if direction is None else direction).detach().transpose(0, 1)

    def prepare(self, features: Float[Tensor, "*B M r"]) -> Float[Tensor, "*B M r"]:
        """Features as the cosine sees them."""
        return normalise_per_module(features) if self.normalise else features

    def block_scores(
        self, features: Float[Tensor, "B *W M r"], direction: Tensor | None = None
    ) -> Float[Tensor, "B K"]:
        """`cos(h, v_k)` over all of `[M, r]`, of windows the mean over those of block k; `direction` stands in for `v` where
        `v` is sharded."""
        v = (self.direction if direction is None else direction).to(features.dtype).transpose(0, 1).flatten(1)
        if features.ndim == 3:
            return F.cosine_similarity(self.prepare(features).flatten(1).unsqueeze(1), v.unsqueeze(0), dim=2)
        own = features[:, : len(v) * self.windows].unflatten(1, (len(v), self.windows))
        return F.cosine_similarity(self.prepare(own).flatten(3), v.unsqueeze(1), dim=3).mean(2)

    def score(
        self, features: Float[Tensor, "B *W M r"], direction: Tensor | None = None
    ) -> Float[Tensor, " B"]:
        """The largest of the blocks' cosines."""
        return self.block_scores(features, direction).max(dim=1).values

    def signals(
        self,
        features: Float[Tensor, "B *W M r"],
        threshold: Float[Tensor, ""] | Float[Tensor, " K"],
        direction: Tensor | None = None,
        flag: Float[Tensor, " B"] | None = None,
    ) -> RolloutSignals:
        """What gates and pin decide on; differentiable in the direction."""
        scores = self.block_scores(features, direction)
        logits = self.scale * (scores - threshold)
        return RolloutSignals(score=scores.detach().max(dim=1).values, logits=logits, flag=flag)

    def rollout_signals(
        self,
        features: Float[Tensor, "B *W M r"],
        direction: Tensor | None = None,
        flag: Float[Tensor, " B"] | None = None,
    ) -> RolloutSignals:
        """`signals` at the rollouts' threshold.

        Raises:
            RuntimeError: the rollouts' threshold has not been set yet.
        """
        if not self.is_calibrated:
            raise RuntimeError(
                "the router has no threshold for rollouts yet: call set_rollout_threshold first"
            )
        threshold = self.rollout_threshold
        if self.anchored:
            threshold = threshold + self.anchor_shift(self.direction if direction is None else direction)
        return self.signals(features, threshold, direction, flag)

    def anchor_shift(self, direction: Float[Tensor, "M K r"]) -> Float[Tensor, " K"]:
        """How far the mean score of the anchor's rollouts has gone since the start, by the turning of `v` alone.

        A cosine is linear in the unit vectors of both sides, so the rollouts' mean unit feature is all it takes (of windows: of
        those that were the best at the start). Without this
        in the threshold, a `v` that turns lets all rollouts through, or none; and since the gradient of `w` passes through
        it, reward and pin gain nothing by turning `v` along what all rollouts share.
        """

        def level(v: Tensor) -> Tensor:
            return F.normalize(v.to(self.anchor).transpose(0, 1).flatten(1), dim=1) @ self.anchor.flatten()

        return level(direction) - level(self.seed_direction)

    @property
    def is_calibrated(self) -> bool:
        """Whether the rollouts' threshold is set."""
        return bool(torch.isfinite(self.rollout_threshold).all())

    @torch.no_grad()
    def calibrate_on_pairs(self, hack: Tensor, clean: Tensor, direction: Tensor, *, gain: float) -> None:
        """Set gap, scale (= gain / gap) and the pin's threshold from the sides `[P, M, r]` and the start direction."""
        s_hack, s_clean = (
            self._per_block(self.block_scores(side, direction), torch.mean) for side in (hack, clean)
        )
        self.gap.copy_(s_hack - s_clean)
        self.scale.copy_(gain / self.gap.abs().clamp(min=1e-3))
        self.pin_threshold.copy_((s_hack + s_clean) / 2)
        self.seed_direction.copy_(direction)

    @torch.no_grad()
    def become_placebo(self, direction: Float[Tensor, "M K r"]) -> None:
        """Control: a random direction with the seeded one's scale; it has no gap, so rollouts split at the median."""
        self.seed_direction.copy_(direction)
        self.gap.zero_()

    @torch.no_grad()
    def set_rollout_threshold(self, base_scores: Float[Tensor, "B K"] | None, rule: ThresholdRule) -> None:
        """Threshold of rollouts, of each block by itself: `rule(base_scores[:, k], gap_k)`; None: the pairs' midpoint."""
        if base_scores is None:
            self.rollout_threshold.copy_(self.pin_threshold)
        else:
            found = [
                rule(scores, gap)
                for scores, gap in zip(base_scores.unbind(dim=1), self.gap.view(-1).unbind(), strict=True)
            ]
            self.rollout_threshold.copy_(torch.stack(found).view_as(self.scale))

    def unit(self, features: Float[Tensor, "B *W M r"]) -> Float[Tensor, "B M r"]:
        """Features as the cosine sees them, at length one; of windows the mean over those of all blocks."""
        units = F.normalize(self.prepare(features).flatten(-2), dim=-1).view_as(features)
        return units if units.ndim == 3 else units[:, : self.direction.shape[1] * self.windows].mean(1)

    @torch.no_grad()
    def follow(self, scores: Float[Tensor, "B K"], *, rate: float = 0.2) -> None:
        """Move the rollouts' threshold with the rollouts that the router holds for clean.

            c = sum_i (1 - w_i) s_i / sum_i (1 - w_i);   threshold += rate * (c - clean_level);   clean_level likewise

        As the policy moves, so do its scores, hacks' and clean ones' together; no label is looked at.
        """
        clean = 1 - torch.sigmoid(self.scale * (scores - self.rollout_threshold))
        level = self.clean_mean(scores, clean)
        if torch.isfinite(self.clean_level).all():
            step = rate * (level - self.clean_level)
            self.rollout_threshold.add_(step)
            self.clean_level.add_(step)
        else:
            self.clean_level.copy_(level)

    def clean_mean(self, scores: Float[Tensor, "B K"], clean: Float[Tensor, "B _"]) -> Tensor:
        """Mean score of the rollouts, each counted as far as it is `clean`; of the shape of `scale`."""
        total = (clean * scores).sum(dim=0) / clean.sum(dim=0).clamp(min=1e-6)
        return total.view_as(self.scale)

    def _per_block(self, scores: Float[Tensor, "B K"], reduce: Callable[[Tensor], Tensor]) -> Tensor:
        """`reduce` over the rollouts, block by block; of the shape of `scale`."""
        return torch.stack([reduce(column) for column in scores.unbind(dim=1)]).view_as(self.scale)
