"""The direction a router starts from: hack minus clean, or a random placebo."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def contrastive_direction(
    hack: Float[Tensor, "P M r"], clean: Float[Tensor, "P M r"]
) -> Float[Tensor, "M r"]:
    """`v_act = unit(mean over pairs of (h_hack - h_clean))`, unit over all of `[M, r]`.

    Raises:
        ValueError: the two sides have the same mean, so there is no direction.
    """
    difference = (hack - clean).mean(0)
    norm = difference.norm()
    if not norm > 0:
        raise ValueError(
            "the hack and clean sides of the pairs have the same mean features: no direction to seed from"
        )
    unit: Tensor = difference / norm
    return unit


def with_best_windows(
    hack: Float[Tensor, "P M r"],
    clean: Float[Tensor, "P M r"],
    best_windows: Callable[[Float[Tensor, "M r"]], tuple[Float[Tensor, "P W M r"], Float[Tensor, "P W M r"]]],
    prepare: Callable[[Tensor], Tensor],
) -> tuple[Float[Tensor, "P M r"], Float[Tensor, "P M r"]]:
    """Features to make a direction from that windows are scored along: of each side the mean of those given and of its best
    windows along the direction of those given.

    What a side's tokens have in common finds loopholes that no pair shows, and takes much that is near a hack for one; what the
    best windows of the two sides differ in tells those apart, and alone knows the shown ones.

    Args:
        best_windows: of both sides along a direction. prepare: features as the cosine sees them.
    """
    along = contrastive_direction(prepare(hack), prepare(clean))
    of_hack, of_clean = best_windows(along)
    return (hack + of_hack.mean(1)) / 2, (clean + of_clean.mean(1)) / 2


def haar_direction(shape: tuple[int, int], seed: int) -> Float[Tensor, "M r"]:
    """A direction uniform on the sphere of `[M, r]` (placebo control)."""
    v = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    unit: Tensor = v / v.norm()
    return unit


def block_directions(
    direction: Float[Tensor, "M r"], num_blocks: int, seed: int, spread: float = 0.3
) -> Float[Tensor, "M K r"]:
    """One direction per quarantine block: `direction` itself for one, else `unit(v + spread * haar_k)`, so that
    blocks can come to prefer different hacks."""
    if num_blocks == 1:
        return direction.unsqueeze(1)
    shape = (direction.shape[0], direction.shape[1])
    placebos = [haar_direction(shape, seed=seed * num_blocks + k).to(direction) for k in range(num_blocks)]
    moved = [direction + spread * placebo for placebo in placebos]
    return torch.stack([v / v.norm() for v in moved], dim=1)
