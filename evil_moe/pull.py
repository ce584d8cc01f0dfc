"""What pulls on the direction once a step, beside reward: the pin and the contrast."""

from __future__ import annotations

import torch
from torch import Tensor

from evil_moe.contrast import contrast_loss
from evil_moe.diagnostics import cosine, drift
from evil_moe.pairs.reader import PairReader
from evil_moe.passes import Rollouts
from evil_moe.pin import pin_loss
from evil_moe.router import Router
from evil_moe.settings import MethodSettings
from evil_moe.sharded import whole, whole_alike


def pull_on_direction(
    v: Tensor, router: Router, pairs: PairReader, settings: MethodSettings, sampled: Rollouts | None
) -> dict[str, float]:
    """Add the gradients of pin and contrast, once per optimizer step, whatever the number of micro-batches and ranks.

    They reach v outside the FSDP forward, through v's own gather: a loss that read v from a side channel of
    the root's forward would miss FSDP2's hooks, and its gradient would leak into the next step.

    Args:
        v: the router's direction as the optimizer knows it, with the gradient of the update.
        sampled: all rollouts of the step, of all ranks, for the contrast.

    Returns:
        Metrics: the losses, the gradients' norms and cosine, and how far v has turned.
    """
    metrics = {}
    reward_grad = whole(v.grad).clone() if v.grad is not None else torch.zeros_like(whole(v.detach()))
    if settings.pin.weight > 0:
        hack, clean = pairs.features(router.eyes(whole(v.detach())))
        loss = pin_loss(router, hack, clean, whole_alike(v), matched=settings.pin.matched)
        (settings.pin.weight * loss).backward()
        assert v.grad is not None
        pin_grad = whole(v.grad) - reward_grad
        metrics["pin/loss"] = loss.item()
        metrics["pin/grad_norm"] = pin_grad.norm().item()
        metrics["router/cos_pin_reward"] = cosine(pin_grad, reward_grad)
    # Of the gate's own penalty, too, in the arms that have one.
    metrics["router/reward_grad_norm"] = reward_grad.norm().item()
    if settings.contrast.weight > 0:
        assert sampled is not None and sampled.features is not None, (
            "the contrast is of rollouts that have been read"
        )
        loss = contrast_loss(router, sampled.features, sampled.quarantine_on, whole_alike(v))
        (settings.contrast.weight * loss).backward()
        metrics["contrast/loss"] = loss.item()
    direction = whole(v.detach())
    metrics["router/drift"] = drift(direction, router.seed_direction)
    metrics["router/anchor_shift"] = router.anchor_shift(direction).mean().item()
    return metrics
