"""The table of eyes: how well would a router tell hacks from clean replies, if it looked at them in this way or that?

An eye is a pooling and the tokens of the hack sides that its direction is made from. Each is asked on labelled replies of several
kinds, by AUROC: 1 if every hack scores above every clean reply, 0.5 if the score knows nothing of it. The answer is of the model's
features as they are before any run: what no eye tells apart there, no threshold and no pin will. Labels are used for nothing but
this table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from evil_moe.diagnostics import auroc
from evil_moe.direction import contrastive_direction
from evil_moe.features import TokenReading, normalise_per_module


@dataclass(frozen=True)
class Eye:
    """One way to look.

    Attributes:
        pooling: name of the plug (`evil_moe.features`). size: of windows, else 0.
        tokens: `completion` or `hack_only`, as `evil_moe.router.direction_tokens`.
    """

    pooling: str
    size: int = 0
    tokens: str = "completion"

    def __str__(self) -> str:
        return f"{self.pooling}{f' {self.size}' if self.size else ''}, {self.tokens}"

    @property
    def overrides(self) -> str:
        """What chooses it on a command line."""
        size = f" +evil_moe.router.pooling.options.size={self.size}" if self.size else ""
        return f"evil_moe.router.pooling.name={self.pooling}{size} evil_moe.router.direction_tokens={self.tokens}"


def eyes(sizes: Sequence[int] = (4, 8)) -> list[Eye]:
    """Every eye that is asked: mean, last token, and windows of these sizes."""
    kinds = [("mean", 0), *(("window", size) for size in sizes)]
    return [Eye("last"), *(Eye(*kind, tokens) for kind in kinds for tokens in ("completion", "hack_only"))]


class Looking:
    """The directions of some eyes, from the pairs, and the scores along them.

    Args:
        hack, clean: readings of the pairs' sides. own_start: of each hack side, where its own tokens begin, `[P]`.
        normalise: features per module, as the router has it.
    """

    def __init__(
        self,
        asked: Sequence[Eye],
        hack: TokenReading,
        clean: TokenReading,
        own_start: Int[Tensor, " P"],
        *,
        normalise: bool = True,
    ):
        self.asked, self.normalise = list(asked), normalise
        seen = normalise_per_module if normalise else lambda features: features
        clean_mean = seen(clean.mean())
        self.directions = {
            "completion": contrastive_direction(seen(hack.mean()), clean_mean),
            "hack_only": contrastive_direction(seen(hack.mean(own_start)), clean_mean),
            "last": contrastive_direction(seen(hack.last()), seen(clean.last())),
        }

    def scores(self, reading: TokenReading) -> Float[Tensor, "B E"]:
        """Of replies, along every eye's direction."""
        return torch.stack([self._scores(eye, reading).cpu() for eye in self.asked], dim=1)

    def _scores(self, eye: Eye, reading: TokenReading) -> Float[Tensor, " B"]:
        v = self.directions["last" if eye.pooling == "last" else eye.tokens]
        if eye.pooling == "window":
            return reading.best_scores(v[None], eye.size, normalise=self.normalise).squeeze(1)
        features = reading.last() if eye.pooling == "last" else reading.mean()
        if self.normalise:
            features = normalise_per_module(features)
        return F.cosine_similarity(features.flatten(1), v.flatten()[None], dim=1)


@dataclass(frozen=True)
class EyeRow:
    """An eye, and its AUROC of hacks over clean replies, by kind of hack, and of hacks over near-hacks that are legit, by kind of
    those."""

    eye: Eye
    auroc: dict[str, float]
    near: dict[str, float]

    @property
    def worst(self) -> float:
        return min(self.auroc.values())


def eye_table(
    looking: Looking,
    kinds: Mapping[str, tuple[Iterable[TokenReading], Bool[Tensor, " N"]]],
    near: tuple[Iterable[TokenReading], Sequence[str]] | None = None,
) -> list[EyeRow]:
    """AUROC of every eye on every kind of replies.

    Args:
        kinds: by name, the replies' readings, batch by batch, and which of them are hacks.
        near: readings of near-hacks that are legit, and the kind of each; they are held against the hacks of the first of `kinds`.
    """
    found: dict[str, list[float]] = {}
    hacks: Tensor | None = None
    for name, (readings, is_hack) in kinds.items():
        scores = _scores(looking, readings)
        hacks = scores[is_hack] if hacks is None else hacks
        found[name] = [auroc(column, is_hack) for column in scores.unbind(1)]
    over: dict[str, list[float]] = {}
    if near is not None and hacks is not None:
        scores, names = _scores(looking, near[0]), list(near[1])
        for name in dict.fromkeys(names):
            legit = scores[torch.tensor([other == name for other in names])]
            is_hack = torch.tensor([True] * len(hacks) + [False] * len(legit))
            over[name] = [auroc(column, is_hack) for column in torch.cat([hacks, legit]).unbind(1)]
    return [
        EyeRow(
            eye,
            {name: column[i] for name, column in found.items()},
            {name: column[i] for name, column in over.items()},
        )
        for i, eye in enumerate(looking.asked)
    ]


def best_eye(rows: Sequence[EyeRow]) -> EyeRow:
    """The one that is best where it is worst, to two digits; of equals the one that is best in the mean, near-hacks included."""
    return max(rows, key=lambda row: (round(row.worst, 2), sum(row.auroc.values()) + sum(row.near.values())))


def _scores(looking: Looking, readings: Iterable[TokenReading]) -> Float[Tensor, "N E"]:
    return torch.cat([looking.scores(reading) for reading in readings])
