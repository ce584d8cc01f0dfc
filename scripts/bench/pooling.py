"""What looking at windows costs beside looking at means: a step's read and update, side by side, and what the read holds on to.

python scripts/bench/pooling.py                                                          # nano shapes, CPU
python scripts/bench/pooling.py --width 2560 --layers 2 --rank 32 --dtype bfloat16 --rollouts 6 --tokens 1024 --rounds 3

Sampling, grading and the adapters' way to vLLM, which are the same, are left out; they are more than half of a step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from adapter import arguments, build, compare

from evil_moe.adapter import GateWeights, Lora2rConfig, SequenceLayout, lora2r_model
from evil_moe.features import TokenReading, make_pooling


def main() -> None:
    args = arguments(__doc__.splitlines()[0])
    model = build(args, Lora2rConfig(r=args.rank))
    tuner = lora2r_model(model)
    state, num_modules = tuner.forward_state, len(tuner.lora2r_layers())
    ids = torch.randint(0, 768, (args.rollouts, args.tokens), device=args.device)
    completion = torch.ones(ids.shape, device=args.device)
    completion[:, : args.tokens // 3] = 0
    layout = SequenceLayout(None, completion, args.rollouts)
    w = torch.rand(args.rollouts, device=args.device)
    weights = GateWeights(m=w.unsqueeze(1), d=w)
    eyes = torch.randn(1, num_modules, args.rank, device=args.device)
    held: dict[str, float] = {}

    def step(name: str, update: bool, **options: int) -> Callable[[], None]:
        pooling = make_pooling(name.split()[0], **options)

        def run() -> None:
            with (
                torch.no_grad(),
                state.gated(None, layout),
                state.reading_features(pooling.reading(tuner), of_base=True) as read,
            ):
                model(input_ids=ids, use_cache=False)
            read.features(eyes)
            if isinstance(read, TokenReading):
                held[name] = sum(t.numel() * t.element_size() for t in read.tokens.values()) / 1e6
            if update:
                model.zero_grad(set_to_none=True)
                with state.gated(weights, layout):
                    model(input_ids=ids, use_cache=False).logits.float().square().mean().backward()

        return run

    calls: dict[str, Callable[[], object]] = {}
    for update, what in ((False, "read"), (True, "read and update")):
        calls[f"{what}, mean"] = step("mean", update)
        for size in (4, 8):
            calls[f"{what}, window {size}"] = step(f"window {size}", update, size=size)
    compare(calls, args, lambda name: name.split(",")[0] + ", mean")
    for name, megabytes in held.items():
        tokens = int(completion.sum())
        print(
            f"{name}: holds {megabytes:.1f} MB for {tokens} completion tokens and {num_modules} modules of rank {args.rank}"
        )


if __name__ == "__main__":
    main()
