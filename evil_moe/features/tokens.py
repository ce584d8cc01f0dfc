"""The bottlenecks of all completion tokens of a forward, and what can be made of them once it is over.

They are kept in the base model's precision: 2 bytes * M * r for each token (Qwen3-4B at r = 32: 16 kB, 100 MB for a micro-batch
of 6,144 tokens). Windows are told apart by the layout, so none reaches from a prompt into its completion, or from one rollout
into the next, packed or padded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from evil_moe.adapter import Lora2rModel, SequenceLayout, base_weight
from evil_moe.features.base import Reading, normalise_per_module


@dataclass(frozen=True)
class Windows:
    """Every window of q consecutive tokens of each rollout, W in all, rollout by rollout.

    Attributes:
        rollout: which one, `[W]`. place: number of the window within it, `[W]`.
        token: rows of its tokens, `[W, q]`; the last one again where a completion is shorter than q.
        share: what each of them counts, `[W, q]`, rows sum to 1.
        count: windows of each rollout, `[B]`; 0 without completion tokens.
    """

    rollout: Int[Tensor, " W"]
    place: Int[Tensor, " W"]
    token: Int[Tensor, "W q"]
    share: Float[Tensor, "W q"]
    count: Int[Tensor, " B"]

    @classmethod
    def of(cls, lengths: Int[Tensor, " B"], size: int) -> Windows:
        """Of rollouts with so many completion tokens each, all in one row of tokens."""
        device = lengths.device
        count = (lengths - size + 1).clamp(min=1) * (lengths > 0)
        rollout = torch.repeat_interleave(torch.arange(len(lengths), device=device), count)
        place = torch.arange(len(rollout), device=device) - (count.cumsum(0) - count)[rollout]
        first = (lengths.cumsum(0) - lengths)[rollout] + place
        span = lengths[rollout].clamp(max=size).unsqueeze(1)
        step = torch.arange(size, device=device).unsqueeze(0)
        return cls(
            rollout=rollout,
            place=place,
            token=first.unsqueeze(1) + torch.minimum(step, span - 1),
            share=(step < span) / span.float(),
            count=count,
        )

    def means(self, tokens: Float[Tensor, "n r"]) -> Float[Tensor, "W r"]:
        """Mean of each window's tokens, float32."""
        return (tokens[self.token].float() * self.share.unsqueeze(-1)).sum(1)


class TokenReading(Reading):
    """Keeps the bottlenecks `[n, r]` of each module's n completion tokens."""

    def __init__(self, tuner: Lora2rModel):
        super().__init__(tuner)
        self.dtype = base_weight(tuner.lora2r_layers()[0]).dtype
        self.tokens: dict[str, Float[Tensor, "n r"]] = {}
        self.lengths: Int[Tensor, " B"]
        self._rows: Int[Tensor, " n"]

    def record(self, module: str, bottleneck: Tensor, layout: SequenceLayout) -> None:
        if not self.tokens:
            self._rows, self.lengths = layout.completion_tokens()
        self.tokens[module] = bottleneck.flatten(0, 1)[self._rows].to(self.dtype)

    def last(self) -> Float[Tensor, "B M r"]:
        """The last token of each completion; zeros without any."""
        rows = (self.lengths.cumsum(0) - 1).clamp(min=0)
        return self._stacked(lambda tokens: _empty_as_zero(tokens, rows, self.lengths))

    def mean(self, after: Int[Tensor, " B"] | None = None) -> Float[Tensor, "B M r"]:
        """The mean over each completion, without its first `after` tokens; zeros without any."""
        device = self.lengths.device
        rollout = torch.repeat_interleave(torch.arange(len(self.lengths), device=device), self.lengths)
        place = torch.arange(len(rollout), device=device) - (self.lengths.cumsum(0) - self.lengths)[rollout]
        counted = torch.ones_like(place) if after is None else (place >= after.to(device)[rollout]).long()
        number = torch.zeros_like(self.lengths).index_add_(0, rollout, counted)

        def mean(tokens: Tensor) -> Tensor:
            total = tokens.new_zeros(len(self.lengths), tokens.shape[1], dtype=torch.float32)
            total.index_add_(0, rollout, tokens.float() * counted.unsqueeze(1))
            return total / number.clamp(min=1).unsqueeze(1)

        return self._stacked(mean)

    def window_scores(
        self,
        eyes: Float[Tensor, "N m r"],
        windows: Windows,
        *,
        normalise: bool,
        modules: Sequence[int] | None = None,
    ) -> Float[Tensor, "W N"]:
        """Cosine of every window with every direction, over the given modules (None: all)."""
        names = self._in_forward()
        names = names if modules is None else [names[module] for module in modules]
        total = eyes.new_zeros(len(windows.rollout), len(eyes), dtype=torch.float32)
        square = total.new_zeros(len(total), 1)
        for place, name in enumerate(names):
            f = windows.means(self.tokens[name])
            if normalise:
                f = normalise_per_module(f)
            total += f @ eyes[:, place].float().T
            square += f.square().sum(1, keepdim=True)
        lengths = square.sqrt() * eyes.float().flatten(1).norm(dim=1)
        cosine: Tensor = total / lengths.clamp(min=1e-8)
        return cosine

    def best_scores(
        self,
        eyes: Float[Tensor, "N m r"],
        size: int,
        best: int = 1,
        *,
        normalise: bool = True,
        modules: Sequence[int] | None = None,
    ) -> Float[Tensor, "B N"]:
        """Mean cosine of each rollout's `best` windows of `size` tokens, for every direction by itself, over the given modules;
        0 without a completion."""
        windows = Windows.of(self.lengths, size)
        scores = self.window_scores(eyes, windows, normalise=normalise, modules=modules)
        if not len(scores):
            return scores.new_zeros(len(self.lengths), len(eyes))
        chosen = self._best(scores, windows, best)  # [B, N, k]
        columns = torch.arange(len(eyes), device=scores.device).view(1, -1, 1)
        return scores[chosen, columns].mean(2) * (windows.count > 0).unsqueeze(1)

    def best_windows(
        self, eyes: Float[Tensor, "N M r"], size: int, best: int = 1, *, normalise: bool = True
    ) -> Float[Tensor, "B W M r"]:
        """Features of each rollout's `best` windows along every direction, W = N * best; zeros without a completion."""
        windows = Windows.of(self.lengths, size)
        shape = (len(self.lengths), len(eyes) * best)
        if not len(windows.rollout):
            return self._stacked(lambda tokens: tokens.new_zeros(*shape, tokens.shape[1]).float())
        chosen = self._best(self.window_scores(eyes, windows, normalise=normalise), windows, best).flatten()
        picked = Windows(
            windows.rollout[chosen],
            windows.place[chosen],
            windows.token[chosen],
            windows.share[chosen],
            windows.count,
        )
        filled = (windows.count > 0).view(-1, 1, 1)
        return self._stacked(lambda tokens: picked.means(tokens).view(*shape, -1) * filled)

    @staticmethod
    def _best(scores: Float[Tensor, "W N"], windows: Windows, best: int) -> Int[Tensor, "B N k"]:
        """Which windows have a rollout's largest scores; of equals the earlier. One without windows gets the first of all."""
        count = windows.count
        table = scores.new_full((len(count), int(count.max()), scores.shape[1]), float("-inf"))
        table[windows.rollout, windows.place] = scores
        order = table.sort(dim=1, descending=True, stable=True).indices
        turn = torch.arange(best, device=count.device) % count.clamp(min=1).unsqueeze(1)  # [B, k]
        place = order.gather(1, turn.unsqueeze(2).expand(-1, -1, scores.shape[1]))  # [B, k, N]
        start = (count.cumsum(0) - count).clamp(max=len(scores) - 1)
        return ((start.view(-1, 1, 1) + place) * (count > 0).view(-1, 1, 1)).transpose(1, 2)

    def _in_forward(self) -> list[str]:
        if missing := [name for name in self.names if name not in self.tokens]:
            raise RuntimeError(
                f"no features from {len(missing)} of {len(self.names)} modules, e.g. {missing[0]}: not in the forward"
            )
        return self.names

    def _stacked(self, pool: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.stack([pool(self.tokens[name]) for name in self._in_forward()], dim=-2)


def _empty_as_zero(tokens: Tensor, rows: Tensor, lengths: Tensor) -> Tensor:
    if not len(tokens):
        return tokens.new_zeros(len(lengths), tokens.shape[1]).float()
    return tokens[rows].float() * (lengths > 0).unsqueeze(1)
