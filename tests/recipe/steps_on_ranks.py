"""Part of engine_on_ranks.py: what the optimizer's step leaves of the deployed block under the plugs of the gradient stop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from evil_moe.gates import make_gate
from evil_moe.gradients import make_gradient_transform
from evil_moe.sharded import whole
from recipe.actor.engine import Lora2rEngine

RANK = 4


def blocks_of(engine: Lora2rEngine) -> dict[str, Tensor]:
    return {name: p for name, p in engine.module.named_parameters() if "lora_2r_d" in name}


def flat(tensors: dict[str, Tensor], block: slice = slice(None)) -> Tensor:
    """Of dA and dB of all layers, whole, in one vector; collective."""
    parts = []
    for name in sorted(tensors):
        value = whole(tensors[name].detach())
        parts.append((value[block] if "dA" in name else value[:, block]).flatten())
    return torch.cat(parts)


DEPLOYED, QUARANTINE = slice(0, RANK), slice(RANK, None)


def _moments(engine: Lora2rEngine, block: slice) -> list[Tensor]:
    state = engine.optimizer.state
    return [
        flat({name: state[p][key] for name, p in blocks_of(engine).items()}, block)
        for key in ("exp_avg", "exp_avg_sq")
    ]


def _unrouted(engine: Lora2rEngine) -> dict[str, Tensor] | None:
    assert engine.step.due is not None
    return engine.step.due.unrouted


def _update(
    engine: Lora2rEngine, batch: Callable[[], TensorDict], loss: Callable[..., Any]
) -> tuple[Tensor, float]:
    """u of the deployed block as the step takes it, and the norm that clipping went by."""
    with engine.train_mode():
        engine.optimizer_zero_grad()
        engine.forward_backward_batch(batch(), loss, forward_only=False)
        unrouted = {n: g.clone() for n, g in (_unrouted(engine) or {}).items()}
        norm = engine.optimizer_step()
    clipped = min(1.0, engine.optimizer_config.clip_grad / (norm + 1e-6))
    return (clipped * flat(unrouted, DEPLOYED) if unrouted else torch.zeros(())), norm


def _relative(got: Tensor, want: Tensor) -> float:
    return ((got - want).norm() / want.norm()).item()


def steps_report(
    engine: Lora2rEngine, batch: Callable[[], TensorDict], loss: Callable[..., Any]
) -> dict[str, Any]:
    """Of an engine with split_moment: its first step, then one in which the gate detaches every rollout for each of the two
    plugs, and one that is not finite. Collective."""
    report: dict[str, Any] = {}
    # Neither touches the blocks, and reading the pairs takes longer than the rest.
    quick = {
        "pin": replace(engine.step.settings.pin, weight=0.0),
        "contrast": replace(engine.step.settings.contrast, weight=0.0),
    }
    engine.step.settings = replace(engine.step.settings, **quick)
    group = engine.optimizer.param_groups[0]
    beta1, beta2 = group["betas"]
    start = flat(blocks_of(engine), DEPLOYED)
    with engine.train_mode():
        engine.optimizer_zero_grad()
        engine.forward_backward_batch(batch(), loss, forward_only=False)
        g = flat({name: p.grad for name, p in blocks_of(engine).items()}, DEPLOYED)
        u = flat(_unrouted(engine) or {}, DEPLOYED)
        norm = engine.optimizer_step()
    clipped = min(1.0, engine.optimizer_config.clip_grad / norm)
    first, second = _moments(engine, DEPLOYED)
    quotient = clipped * g / (clipped * u.abs() + group["eps"])
    step = quotient.clamp(-1, 1)  # what AdamW's first step is at most
    after = flat(blocks_of(engine), DEPLOYED)
    report["clipped"] = clipped
    report["first_step"] = {
        "first": _relative(first, (1 - beta1) * clipped * g),
        "second": _relative(second, (1 - beta2) * (clipped * u).square()),
        "block": _relative(after, start * (1 - group["lr"] * group["weight_decay"]) - group["lr"] * step),
        "length": (step.norm() / len(step) ** 0.5).item(),
    }
    engine.step.gate = make_gate(
        "absorb", m=1.0, d=1.0
    )  # every rollout is detached, and the quarantine learns
    for plug in ("split_moment", "kept_share"):
        engine.step.gradient = make_gradient_transform(plug, rank_deployed=RANK)
        engine.step.gradient.attach(engine.optimizer)
        deployed, quarantine = (flat(blocks_of(engine), block) for block in (DEPLOYED, QUARANTINE))
        first, second = _moments(engine, DEPLOYED)
        unrouted, _ = _update(engine, batch, loss)
        moments = _moments(engine, DEPLOYED)
        report[plug] = {
            "held": torch.equal(flat(blocks_of(engine), DEPLOYED), deployed),
            "quarantine": (flat(blocks_of(engine), QUARANTINE) - quarantine).norm().item(),
            "momentum": first.norm().item(),
            "first": _relative(moments[0], beta1 * first),
            "second": _relative(moments[1], beta2 * second + (1 - beta2) * unrouted.square()),
        }
    report["skipped"] = _skipped(engine, batch, loss)
    return report


def _skipped(engine: Lora2rEngine, batch: Callable[[], TensorDict], loss: Callable[..., Any]) -> bool:
    """Whether a step whose unrouted gradient alone is not finite leaves all as it is, and itself forgotten."""
    engine.step.gradient = make_gradient_transform("split_moment", rank_deployed=RANK)
    engine.step.gradient.attach(engine.optimizer)
    before: Iterable[Tensor] = [flat(blocks_of(engine)), *_moments(engine, slice(None))]
    with engine.train_mode():
        engine.optimizer_zero_grad()
        engine.forward_backward_batch(batch(), loss, forward_only=False)
        next(iter((_unrouted(engine) or {}).values())).mul_(float("inf"))
        engine.optimizer_step()
    after = [flat(blocks_of(engine)), *_moments(engine, slice(None))]
    return engine.step.due is None and all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
