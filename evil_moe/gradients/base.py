"""What a plug of the gradient stop is, and the blocks it works on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from evil_moe.diagnostics import BLOCK_AXIS, BLOCK_NAME
from evil_moe.sharded import block_view


class GradientTransform:
    """Does nothing. Every rank calls it with its shards of the whole, by names as in `model.named_parameters()`.

    Attributes:
        needs_unrouted: whether `take_unrouted` is to be called. It costs the update's forwards and backwards a second time.
    """

    needs_unrouted = False

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Called once, before the first step, with the optimizer that makes the steps.

        Raises:
            ValueError: the plug does not work with this one.
        """

    def __call__(self, gradients: dict[str, Tensor]) -> dict[str, float]:
        """Change the gradients of dA, dB in place, after the last backward and before clipping; returns metrics."""
        return {}

    def take_unrouted(self, gradients: Mapping[str, Tensor]) -> None:
        """Called before a step where the plug `needs_unrouted`, with the gradients of dA, dB that the step's rollouts give if no gate
        stops any (d = 0), scaled as clipping has scaled the others."""

    def around_step(
        self, parameters: Mapping[str, Tensor], kept_share: float
    ) -> AbstractContextManager[None]:
        """Holds the optimizer's step, for what a gradient cannot say to an optimizer.

        Args:
            parameters: dA and dB of all layers.
            kept_share: mean over the step's rollouts of the share of the deployed block's gradient that was let through,
                0 to 1.
        """
        return nullcontext()


def block_views(tensors: Mapping[str, Tensor], block: slice) -> list[Tensor]:
    """This rank's part of `block`'s ranks, rows of a dA and columns of a dB, as views to write into.

    Raises:
        ValueError: a name is neither a dA nor a dB.
    """
    views = []
    for name, tensor in tensors.items():
        match = BLOCK_NAME.search(name)
        if match is None:
            raise ValueError(f"{name!r} has no blocks: pass the matrices named lora_2r_dA, lora_2r_dB only")
        views.append(block_view(tensor.detach(), block, BLOCK_AXIS[match[1]]))
    return views


@contextmanager
def shortened_step(parameters: Mapping[str, Tensor], block: slice, share: float) -> Iterator[None]:
    """The ranks of `block` take `share` of the step made inside: `old + share * (new - old)`; 0 holds them to the bit."""
    with torch.no_grad():
        views = block_views(parameters, block)
        before = [view.clone() for view in views]
        yield
        for view, old in zip(views, before, strict=True):
            view.copy_(torch.lerp(old, view, share))


def check_rank_deployed(rank_deployed: int) -> int:
    """r, the rank of the deployed block.

    Raises:
        ValueError: below 1.
    """
    if rank_deployed < 1:
        raise ValueError(f"evil_moe.gradient.rank_deployed={rank_deployed} must be at least 1")
    return rank_deployed
