"""Is the pairs' direction good enough to route on? What can be asked of the pairs alone; `steering` asks the policy.

    held out     direction and threshold from the other pairs (midpoint of their sides' mean scores), then: is the hack
                 side above and the clean side below? One pair at a time, or in folds.
    layers       the same with the modules of one layer only.
    stability    cosine of the directions of two disjoint random halves of the pairs.
    random       the same as "held out" with Haar-random directions (only their sign is chosen on the training pairs):
                 how far any direction gets, because the sides differ in length and text whatever the direction. And
                 the cosine of v to them, about 1 / sqrt(M r) in size.

Scores are the router's: cosines over [M, r], of features normalised per module where the router normalises them, and of the
best windows where it looks at those, each direction at its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from evil_moe.concept import modules_by_layer
from evil_moe.diagnostics import auroc, cosine
from evil_moe.direction import contrastive_direction, haar_direction
from evil_moe.features import normalise_per_module

Scorer = Callable[[Float[Tensor, "N m r"], Sequence[int]], tuple[Float[Tensor, "N P"], Float[Tensor, "N P"]]]
"""From directions over some modules to the scores of all hack and all clean sides along each of them."""

MIN_PAIRS = 4
MIN_ACCURACY = 0.9
MIN_STABILITY = 0.5
NUM_SPLITS = 200
NUM_RANDOM = 200


@dataclass(frozen=True)
class HeldOut:
    """Scores of pairs less the threshold of the fold that did not see them.

    Attributes:
        accuracy: share of the 2P sides on their side of the threshold (0 counts as clean).
        auroc: of the margins, hack sides against clean sides.
        ordered: share of pairs whose hack side scores above its own clean side. The task cancels there; a router, which
            sees one rollout, has no such help, so this is not what the verdict rests on.
        hack, clean: the margins, in the order of the pairs.
    """

    accuracy: float
    auroc: float
    ordered: float
    hack: tuple[float, ...]
    clean: tuple[float, ...]


@dataclass(frozen=True)
class Spread:
    """Mean and 5 % and 95 % quantiles of some numbers."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class DirectionChecks:
    """What the pairs say of their direction.

    Attributes:
        gap: length of the mean difference of the sides as the cosine sees them, before it is made a unit.
        layers: `held_out` by layer.
        stability: cosines of the directions of two halves.
        random_cosine: root mean square cosine of v to Haar directions; `expected_cosine` is 1 / sqrt(M r).
        random_accuracy: held-out accuracy of Haar directions.
    """

    num_pairs: int
    num_modules: int
    rank: int
    gap: float
    held_out: HeldOut
    layers: dict[int, HeldOut]
    stability: Spread
    random_cosine: float
    expected_cosine: float
    random_accuracy: Spread

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the direction is not good enough; empty if it is."""
        accuracy, least = self.held_out.accuracy, self.stability.low
        found = []
        if not accuracy > MIN_ACCURACY:
            found.append(f"held-out accuracy {accuracy:.3f} is not above {MIN_ACCURACY}")
        if not accuracy > self.random_accuracy.high:
            found.append(
                f"held-out accuracy {accuracy:.3f} is not above that of 95 % of random directions, "
                f"{self.random_accuracy.high:.3f}"
            )
        if not least >= MIN_STABILITY:
            found.append(
                f"directions of halves of the pairs have cosine {least:.2f} (5 %), not {MIN_STABILITY}"
            )
        return tuple(found)

    @property
    def verdict(self) -> str:
        """One plain line."""
        return verdict(self.reasons)


def verdict(reasons: Sequence[str]) -> str:
    """The plain line for the reasons against a direction."""
    return f"NOT good enough: {'; '.join(reasons)}" if reasons else "good enough to route on"


def check_direction(
    hack: Float[Tensor, "P M r"],
    clean: Float[Tensor, "P M r"],
    module_names: Sequence[str],
    *,
    normalise: bool = True,
    scorer: Scorer | None = None,
    folds: int | None = None,
    seed: int = 0,
) -> DirectionChecks:
    """All checks on the raw features of the pairs' sides that directions are made from.

    Args:
        scorer: how a direction scores the sides; None: by its cosine with these features.
        folds: number of folds; None leaves out one pair at a time.
        seed: of the halves and of the random directions.

    Raises:
        ValueError: too few pairs to hold some out, or fewer than two or more than P folds.
    """
    num_pairs, num_modules, rank = hack.shape
    if num_pairs < MIN_PAIRS:
        raise ValueError(f"{num_pairs} pairs: give at least {MIN_PAIRS}, so that some can be held out")
    folds = num_pairs if folds is None else folds
    if not 2 <= folds <= num_pairs:
        raise ValueError(f"folds={folds}: choose between 2 and the number of pairs, {num_pairs}")
    if normalise:
        hack, clean = normalise_per_module(hack), normalise_per_module(clean)
    hack, clean = hack.double().cpu(), clean.double().cpu()
    scorer = scorer or cosines_with(hack, clean)
    everything = list(range(num_modules))
    v = contrastive_direction(hack, clean)
    haar = [
        haar_direction((num_modules, rank), seed=seed * NUM_RANDOM + i).double() for i in range(NUM_RANDOM)
    ]
    cosines = torch.tensor([cosine(v, other) for other in haar])
    return DirectionChecks(
        num_pairs=num_pairs,
        num_modules=num_modules,
        rank=rank,
        gap=(hack - clean).mean(0).norm().item(),
        held_out=held_out(hack, clean, folds, scorer, everything),
        layers={
            layer: held_out(hack, clean, folds, scorer, places)
            for layer, places in modules_by_layer(module_names).items()
        },
        stability=_spread(split_half_cosines(hack, clean, seed=seed)),
        random_cosine=cosines.square().mean().sqrt().item(),
        expected_cosine=(num_modules * rank) ** -0.5,
        random_accuracy=_spread(random_accuracies(scorer, torch.stack(haar), folds).tolist()),
    )


def cosines_with(hack: Float[Tensor, "P M r"], clean: Float[Tensor, "P M r"]) -> Scorer:
    """Scores of sides that are the same features for every direction."""

    def score(directions: Tensor, modules: Sequence[int]) -> tuple[Tensor, Tensor]:
        v = F.normalize(directions.flatten(1), dim=1)
        scores = [v @ F.normalize(side[:, modules].flatten(1), dim=1).T for side in (hack, clean)]
        return scores[0], scores[1]

    return score


def held_out(
    hack: Float[Tensor, "P M r"],
    clean: Float[Tensor, "P M r"],
    folds: int,
    scorer: Scorer,
    modules: Sequence[int],
) -> HeldOut:
    """Every pair scored by a direction and a threshold that were made without it, from some modules; pair p is in fold
    `p % folds`."""
    fold = torch.arange(len(hack)) % folds
    directions = [
        contrastive_direction(hack[fold != this][:, modules], clean[fold != this][:, modules])
        for this in range(folds)
    ]
    scores = torch.stack([side.double().cpu() for side in scorer(torch.stack(directions), modules)])
    margins = torch.empty(2, len(hack), dtype=scores.dtype)
    for this in range(folds):
        train, test = fold != this, fold == this
        margins[:, test] = scores[:, this, test] - scores[:, this, train].mean()
    labels = torch.tensor([1, 0]).repeat_interleave(len(hack))
    right = (margins[0] > 0).sum() + (margins[1] <= 0).sum()
    return HeldOut(
        accuracy=right.item() / margins.numel(),
        auroc=auroc(margins.flatten(), labels),
        ordered=(margins[0] > margins[1]).sum().item() / len(hack),
        hack=tuple(margins[0].tolist()),
        clean=tuple(margins[1].tolist()),
    )


def random_accuracies(scorer: Scorer, directions: Float[Tensor, "N M r"], folds: int) -> Float[Tensor, " N"]:
    """Held-out accuracy of given directions, each turned to the side that fits the training pairs of the fold."""
    modules = list(range(directions.shape[1]))
    scores = torch.stack([side.double().cpu() for side in scorer(directions, modules)])
    num_pairs = scores.shape[2]
    right = torch.zeros(len(directions), dtype=scores.dtype)
    fold = torch.arange(num_pairs) % folds
    for this in range(folds):
        means = scores[:, :, fold != this].mean(dim=2)
        sign = torch.where(means[0] < means[1], -1.0, 1.0)
        margins = (sign[:, None] * (scores - means.mean(dim=0)[:, None]))[:, :, fold == this]
        right += (margins[0] > 0).sum(dim=1) + (margins[1] <= 0).sum(dim=1)
    return right / (2 * num_pairs)


def split_half_cosines(
    hack: Float[Tensor, "P M r"], clean: Float[Tensor, "P M r"], *, seed: int, splits: int = NUM_SPLITS
) -> list[float]:
    """Cosines of the directions of the two halves of the pairs, over random splits."""
    generator, half = torch.Generator().manual_seed(seed), len(hack) // 2
    found = []
    for _ in range(splits):
        order = torch.randperm(len(hack), generator=generator)
        sides = [contrastive_direction(hack[part], clean[part]) for part in (order[:half], order[half:])]
        found.append(cosine(*sides))
    return found


def _spread(values: Sequence[float]) -> Spread:
    numbers = torch.tensor(values, dtype=torch.float64)
    low, high = torch.quantile(numbers, torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    return Spread(mean=numbers.mean().item(), low=low, high=high)
