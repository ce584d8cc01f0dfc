"""What the plugs that take further gradients cost beside the gated step that every arm makes, on one micro-batch.

python scripts/bench/gradients.py                                                        # nano shapes, CPU
python scripts/bench/gradients.py --device cuda --dtype bfloat16 --width 2560 --layers 4 --rank 32 --tokens 1024

`route_grad` reads a gradient feature for every rollout at every step. Projection works on the gradients once a step; its
v_hack, and the SVD that denoises it, are taken once, at the start of a run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from adapter import arguments, build, compare

from evil_moe.adapter import GateWeights, Lora2rConfig, SequenceLayout, lora2r_model
from evil_moe.adapter.layer import base_weight
from evil_moe.features import gradient_features
from evil_moe.gradients.projection import Projection
from evil_moe.hack_gradient import hack_gradient, pair_nll

BASE = "gated forward and backward"
SIDES = 32


def main() -> None:
    args = arguments(__doc__.splitlines()[0])
    model = build(args, Lora2rConfig(r=args.rank))
    tuner = lora2r_model(model)
    state = tuner.forward_state
    ids = torch.randint(0, 768, (args.rollouts, args.tokens), device=args.device)
    mask, completion = torch.ones_like(ids), torch.ones(ids.shape, device=args.device)
    layout = SequenceLayout(None, completion, args.rollouts)
    w = torch.rand(args.rollouts, device=args.device)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with state.gated(GateWeights(m=w.unsqueeze(1), d=w), layout):
            pair_nll(model, ids, mask, completion).sum().backward()

    def read_gradients() -> None:
        with state.gated(None, layout), state.reading_gradients() as read:
            gradient_features(-pair_nll(model, ids, mask, completion).sum(), read, tuner)

    def v_hack() -> dict[str, torch.Tensor]:
        sides = {"input_ids": ids[:SIDES], "attention_mask": mask[:SIDES]}
        hack = torch.arange(len(ids[:SIDES]), device=args.device) % 2 == 0
        return hack_gradient(model, sides, completion[:SIDES], hack)

    direction = v_hack()
    layers = {name.split(".lora_2r_d")[0]: name for name in direction}
    weights = {module: base_weight(model.get_submodule(module)) for module in layers}
    calls: dict[str, Callable[[], object]] = {BASE: step, "gradient features": read_gradients}
    calls[f"v_hack of {SIDES} sides"] = v_hack
    for name, projection in {
        "projection": Projection(),
        "projection, m = 16": Projection(denoise=16),
    }.items():
        calls[f"v_hack into {name}"] = partial(projection.set_direction, direction, weights)
        calls[name] = partial(projection, {name: value.clone() for name, value in direction.items()})
    compare(calls, args, lambda name: BASE)


if __name__ == "__main__":
    main()
