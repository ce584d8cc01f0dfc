"""Run under torchrun by test_arms.py: every arm's plugs in the real engine, on one or two FSDP2 ranks.

For each arm: build the engine on a tiny policy, then two steps of old-log-prob read, gated update and optimizer step,
with the batch's fields exactly those the trainer would send. Rank 0 writes what each arm did. `device:` and a number are
not arms but the plugs of `plugs_on_device`.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from torch import Tensor
from verl.utils import tensordict_utils as tu

from evil_moe.direction import block_directions, contrastive_direction
from evil_moe.experiment.config import compose
from evil_moe.gates import gate_class
from evil_moe.sharded import whole
from recipe.actor.tensors import dense
from tests.recipe.engine_on_ranks import NUM_ROLLOUTS, build_engine, loss_fn, make_batch
from tests.recipe.plugs_on_device import run_plugs

STEPS = 2
GOLDEN = ("router", "frozen", "label", "contrast", "windows")
"""Arms whose first steps are on record (test_golden.py says what for)."""
GOLDEN_STEPS = 3


def settings_of(arm: str) -> dict[str, Any]:
    """The arm's settings, on pairs that the tiny policy has room for."""
    node = OmegaConf.to_container(compose([f"arm={arm}", "preset=nano"]).evil_moe, resolve=True)
    assert isinstance(node, dict)
    node["pairs"] |= {"groups": ["hard_coding"], "chat_template": {}}
    node["adapter"]["quarantine_rank"] = 4 // node["adapter"]["num_quarantine"]
    # Adam divides gradients of rounding's size by their own: over many steps ranks drift apart by more than rounding.
    node["adapter"]["quarantine_steps"] = min(5, node["adapter"]["quarantine_steps"])
    node["router"]["threshold_fraction"] = 1.0  # one for all arms, so that their weights can be compared
    node["router"]["refresh_every"] = min(1, node["router"]["refresh_every"])
    if "rank_deployed" in node["gradient"]["options"]:
        node["gradient"]["options"]["rank_deployed"] = 4
    return node


def adapter_blocks(engine: Any) -> dict[str, Tensor]:
    """Whole tensors of both blocks, flat."""
    deployed, quarantine = [], []
    for layer in engine.step.tuner.lora2r_layers():
        d_a, d_b = (whole(layer.lora_2r_dA["default"]), whole(layer.lora_2r_dB["default"]))
        deployed += [d_a[:4].flatten(), d_b[:, :4].flatten()]
        quarantine += [d_a[4:].flatten(), d_b[:, 4:].flatten()]
    return {"deployed": torch.cat(deployed).detach(), "quarantine": torch.cat(quarantine).detach()}


@torch.no_grad()
def of_the_pairs(engine: Any) -> Tensor:
    """The direction that the pairs give on the policy as it is, `[M, K, r]`."""
    hack, clean = engine.step.pairs.seed_features()
    direction = contrastive_direction(engine.step.router.prepare(hack), engine.step.router.prepare(clean))
    settings = engine.settings
    return block_directions(direction, settings.adapter.num_quarantine, settings.seed)


def golden_of(step: dict[str, Any]) -> dict[str, Any]:
    """What is on record of a step: w of every rollout, loss, gradient norm, threshold, and all that is logged of the method."""
    metrics = {name: step["metrics"][name] for name in sorted(step["metrics"])}
    return {name: step[name] for name in ("w", "loss", "norm", "threshold")} | {"metrics": metrics}


def run_arm(name: str, model_path: str, rows: slice) -> dict[str, Any]:
    """The report of an arm; `arm:deployed` has rollouts of the deployed model alone, which the update leaves in their state,
    `arm:penalty` a direction that neither reward nor pin may move, `arm:late` a refresh that is not due yet,
    `arm:parts` pairs that are read a few at a time, `arm:whole` one micro-batch."""
    arm, _, variant = name.partition(":")
    settings = settings_of(arm)
    if variant == "deployed":
        settings["rollout"]["gate_deployed"] = False
    if variant == "penalty":
        settings["router"]["reward_gradient"], settings["pin"]["weight"] = False, 0.0
    if variant == "late":
        settings["router"]["refresh_every"] = STEPS

    def rollouts() -> Any:
        batch = make_batch(rows)
        if variant == "deployed":
            batch["quarantine_on"] = torch.zeros_like(batch["quarantine_on"])
        if variant == "whole":
            tu.assign_non_tensor(batch, micro_batch_size_per_gpu=NUM_ROLLOUTS)
        return batch

    engine = build_engine(model_path, settings, tokens=80 if variant == "parts" else None)
    if variant == "parts":
        assert engine.step.pairs.sides.parts(80) > 1
    needs_flag = gate_class(settings["gate"]["name"]).needs_flag
    flag = (torch.arange(NUM_ROLLOUTS) % 3 == 0).float().unsqueeze(1)[rows]
    start = adapter_blocks(engine)
    first_direction = whole(engine.step.router.direction).detach().clone()
    report: dict[str, Any] = {"needs_flag": needs_flag, "flag": flag.flatten().tolist()}
    report["first_direction"] = first_direction.flatten().tolist()

    def step() -> dict[str, Any]:
        batch = rollouts()
        if needs_flag:
            batch["flag"] = flag
        with engine.eval_mode():
            read = engine.infer_batch(batch, loss_function=None)["model_output"]
            report["off_the_pairs"] = (
                (whole(engine.step.router.direction) - of_the_pairs(engine)).norm().item()
            )
        threshold = engine.step.router.rollout_threshold.mean().item()
        batch = rollouts()
        batch["features"] = read["features"]
        if needs_flag:
            batch["flag"] = flag
        with engine.train_mode():
            engine.optimizer_zero_grad()
            out = engine.forward_backward_batch(batch, loss_fn, forward_only=False)
            norm = engine.optimizer_step()
            engine.lr_scheduler_step()
        loss = torch.tensor(sum(out["loss"]) / dist.get_world_size())
        dist.all_reduce(loss)
        w = [torch.empty_like(read["w"]) for _ in range(dist.get_world_size())]
        dist.all_gather(w, read["w"].contiguous())
        return {
            "micro_batches": len(out["loss"]),
            "loss": loss.item(),
            "norm": norm,
            "w": torch.cat(w).flatten().tolist(),
            "threshold": threshold,
            "features": dense(read["features"]).flatten().tolist(),
            "metrics": {k: v[-1] if isinstance(v, list) else v for k, v in out["metrics"].items()},
        }

    report["steps"] = steps = [step() for _ in range(STEPS)]
    first, last = (torch.tensor(steps[i]["features"]) for i in (0, -1))
    report["features_moved"] = (last - first).abs().max().item()  # of the same rollouts
    end = adapter_blocks(engine)
    for block, before in start.items():
        report[f"moved_{block}"] = (end[block] - before).norm().item()
        report[f"norm_{block}"] = end[block].norm().item()
    report["drift"] = (whole(engine.step.router.direction).detach() - first_direction).norm().item()
    report["a0"] = sum(
        layer.lora_2r_A0["default"].double().abs().sum().item() for layer in engine.step.tuner.lora2r_layers()
    )
    if name in GOLDEN:
        report["golden"] = [
            golden_of(told) for told in (*steps, *(step() for _ in range(GOLDEN_STEPS - STEPS)))
        ]
    return report


def main(model_path: str, out: str, *arms: str) -> None:
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    share = NUM_ROLLOUTS // size
    rows = slice(rank * share, (rank + 1) * share)
    on_device = [arm for arm in arms if arm.startswith("device:")]
    reports = {arm: run_arm(arm, model_path, rows) for arm in arms if arm not in on_device}
    reports |= {arm: run_plugs(arm, model_path, settings_of("router")) for arm in on_device}
    if rank == 0:
        clean = json.loads(json.dumps(reports), parse_constant=lambda _: math.nan)
        Path(out).write_text(json.dumps(clean))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
