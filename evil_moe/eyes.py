"""The table of eyes: how well would a router tell hacks from clean replies, if it looked at them in this way or that?

An eye is a pooling and the tokens of the hack sides that its direction is made from. Each is asked on labelled replies of several
kinds, by AUROC: 1 if every hack scores above every clean reply, 0.5 if the score knows nothing of it. It is asked of the direction as
the pairs seed it, and of what the pin makes of it over a run: the pin learns to tell the pairs apart, which finds what they show and
may lose what they do not. The answer is of the model's features as they are before any run. Labels are used for nothing but this table.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from evil_moe.diagnostics import auroc
from evil_moe.direction import contrastive_direction, with_best_windows
from evil_moe.features import TokenReading, normalise_per_module
from evil_moe.pin import pin_loss
from evil_moe.router import Router


@dataclass(frozen=True)
class Eye:
    """One way to look.

    Attributes:
        pooling: name of the plug (`evil_moe.features`). size: of windows, else 0.
        tokens: `completion`, `hack_only` or, of windows, `hack_windows`, as `evil_moe.router.direction_tokens`.
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
    tokens = ("completion", "hack_only", "hack_windows")
    windows = [Eye("window", size, of) for size in sizes for of in tokens]
    return [Eye("last"), *(Eye("mean", 0, of) for of in tokens[:2]), *windows]


@dataclass(frozen=True)
class Pin:
    """How a run's pin would move a direction: `steps` of Adam at `lr`, the router's `gain`, and whether it is `matched`."""

    steps: int
    lr: float
    gain: float
    matched: bool = False


class Looking:
    """The directions of some eyes, from the pairs, and the scores along them.

    Args:
        hack, clean: readings of the pairs' sides. own_start: of each hack side, where its own tokens begin, `[P]`.
        normalise: features per module, as the router has it.
        pin: moves every direction once more, for a second answer; None for the first alone.
    """

    def __init__(
        self,
        asked: Sequence[Eye],
        hack: TokenReading,
        clean: TokenReading,
        own_start: Int[Tensor, " P"],
        *,
        normalise: bool = True,
        pin: Pin | None = None,
    ):
        self.asked, self.normalise = list(asked), normalise
        self.routers = [self._router(self._seed(eye, hack, clean, own_start)) for eye in asked]
        self.pinned = (
            []
            if pin is None
            else [
                self._pinned(eye, router, hack, clean, pin)
                for eye, router in zip(asked, self.routers, strict=True)
            ]
        )

    def scores(self, reading: TokenReading, *, pinned: bool = False) -> Float[Tensor, "B E"]:
        """Of replies, along every eye's direction."""
        routers = self.pinned if pinned else self.routers
        by_eye = [
            router.score(self._features(eye, router, reading)).cpu()
            for eye, router in zip(self.asked, routers, strict=True)
        ]
        return torch.stack(by_eye, dim=1).detach()

    def _seed(
        self, eye: Eye, hack: TokenReading, clean: TokenReading, own_start: Tensor
    ) -> Float[Tensor, "M r"]:
        prepare = normalise_per_module if self.normalise else lambda features: features
        if eye.pooling == "last":
            of_hack, of_clean = hack.last(), clean.last()
        else:
            of_hack, of_clean = hack.mean(None if eye.tokens == "completion" else own_start), clean.mean()
        if eye.tokens == "hack_windows":

            def best(v: Tensor) -> tuple[Tensor, Tensor]:
                windows = [
                    side.best_windows(v.unsqueeze(0), eye.size, normalise=self.normalise)
                    for side in (hack, clean)
                ]
                return windows[0], windows[1]

            of_hack, of_clean = with_best_windows(of_hack, of_clean, best, prepare)
        return contrastive_direction(prepare(of_hack), prepare(of_clean))

    def _router(self, direction: Float[Tensor, "M r"]) -> Router:
        router = Router(*direction.shape, normalise=self.normalise).to(direction.device)
        router.direction.data.copy_(direction.unsqueeze(1))
        return router

    @staticmethod
    @torch.no_grad()
    def _features(eye: Eye, router: Router, reading: TokenReading) -> Float[Tensor, "B *W M r"]:
        if eye.pooling == "window":
            return reading.best_windows(router.eyes(), eye.size, normalise=router.normalise)
        return reading.last() if eye.pooling == "last" else reading.mean()

    def _pinned(self, eye: Eye, router: Router, hack: TokenReading, clean: TokenReading, pin: Pin) -> Router:
        """What becomes of the router where the pin alone moves it; as in a run, each step reads the pairs anew."""
        router = copy.deepcopy(router)
        sides = [self._features(eye, router, side) for side in (hack, clean)]
        router.calibrate_on_pairs(sides[0], sides[1], router.direction.detach(), gain=pin.gain)
        optimizer = torch.optim.Adam(router.parameters(), lr=pin.lr)
        for _ in range(pin.steps):
            if eye.pooling == "window":
                sides = [self._features(eye, router, side) for side in (hack, clean)]
            optimizer.zero_grad()
            pin_loss(router, *sides, matched=pin.matched).backward()
            optimizer.step()
        return router


@dataclass(frozen=True)
class EyeRow:
    """An eye, and its AUROC of hacks over clean replies, by kind of hack, of hacks over near-hacks that are legit, by kind of
    those, and of hacks over clean replies once more as the pin leaves its direction; empty if that was not asked."""

    eye: Eye
    auroc: dict[str, float]
    near: dict[str, float]
    pinned: dict[str, float] = field(default_factory=dict)

    @property
    def worst(self) -> float:
        """As seeded."""
        return min(self.auroc.values())

    @property
    def worst_pinned(self) -> float:
        """As the pin leaves it; as seeded where that was not asked."""
        return min(self.pinned.values(), default=self.worst)

    @property
    def worst_in_run(self) -> float:
        """A direction that learns goes from the one to the other."""
        return min(self.worst, self.worst_pinned)


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
    pinned: dict[str, list[float]] = {}
    hacks: Tensor | None = None
    for name, (readings, is_hack) in kinds.items():
        scores, as_pinned = _scores(looking, readings)
        hacks = scores[is_hack] if hacks is None else hacks
        found[name] = [auroc(column, is_hack) for column in scores.unbind(1)]
        if looking.pinned:
            pinned[name] = [auroc(column, is_hack) for column in as_pinned.unbind(1)]
    over: dict[str, list[float]] = {}
    if near is not None and hacks is not None:
        (scores, _), names = _scores(looking, near[0]), list(near[1])
        for name in dict.fromkeys(names):
            legit = scores[torch.tensor([other == name for other in names])]
            is_hack = torch.tensor([True] * len(hacks) + [False] * len(legit))
            over[name] = [auroc(column, is_hack) for column in torch.cat([hacks, legit]).unbind(1)]
    return [
        EyeRow(
            eye,
            {name: column[i] for name, column in found.items()},
            {name: column[i] for name, column in over.items()},
            {name: column[i] for name, column in pinned.items()},
        )
        for i, eye in enumerate(looking.asked)
    ]


def best_eye(rows: Sequence[EyeRow], *, learns: bool = True) -> EyeRow:
    """The one that is best where it is worst, to two digits; of equals the one that is best in the mean, near-hacks included. Of a
    router that learns, over the whole run."""

    def rank(row: EyeRow) -> tuple[float, float]:
        return round(row.worst_in_run if learns else row.worst, 2), sum(row.auroc.values()) + sum(
            row.near.values()
        )

    return max(rows, key=rank)


def _scores(
    looking: Looking, readings: Iterable[TokenReading]
) -> tuple[Float[Tensor, "N E"], Float[Tensor, "N E"]]:
    """As seeded and as pinned; the second is the first where no pin was asked."""
    both = []
    for reading in readings:
        seeded = looking.scores(reading)
        both.append((seeded, looking.scores(reading, pinned=True) if looking.pinned else seeded))
    return torch.cat([seeded for seeded, _ in both]), torch.cat([pinned for _, pinned in both])
