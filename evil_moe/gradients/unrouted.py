"""The gradients that the rollouts of an update give where no gate stops any."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


def unrouted_gradients(model: nn.Module, kept_share: float, again: Callable[[], object]) -> dict[str, Tensor]:
    """The gradients of dA and dB with d = 0, by the update's forwards and backwards once more, or as they are if all was kept.

    The step's own are put aside meanwhile. A second pass, and not a second backward of each micro-batch: FSDP may sum up
    the micro-batches' gradients before it reduces them, where those of two backwards would be one.

    Args:
        kept_share: of the gradient that was to reach the deployed block, mean over the step's rollouts.
        again: runs the update's forwards and backwards with d = 0.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    blocks = [name for name in trained if "lora_2r_d" in name]
    routed = {name: p.grad for name, p in trained.items()}
    if kept_share == 1:
        return {name: grad.clone() for name in blocks if (grad := routed[name]) is not None}
    for p in trained.values():
        p.grad = None
    again()
    unrouted = {name: grad for name in blocks if (grad := trained[name].grad) is not None}
    for name, p in trained.items():
        p.grad = routed[name]
    return unrouted
