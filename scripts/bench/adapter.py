"""The gated two-expert adapter against PEFT's LoRA of the same trained rank: forward and backward, side by side.

python scripts/bench/adapter.py                                                        # nano shapes, CPU
python scripts/bench/adapter.py --device cuda --dtype bfloat16 --width 2560 --layers 4 --rank 32 --tokens 1024

The rounds alternate between the variants, so a noisy machine slows all of them; read the ratios.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Qwen3Config, Qwen3ForCausalLM

from evil_moe.adapter import GateWeights, Lora2rConfig, SequenceLayout, lora2r_model
from evil_moe.features import MeanPooling


def build(args: argparse.Namespace, adapter: LoraConfig | Lora2rConfig) -> PeftModel:
    """A Qwen3 of random weights with the adapter on all linears."""
    torch.manual_seed(0)
    heads = max(2, args.width // 64)
    config = Qwen3Config(
        vocab_size=768,
        hidden_size=args.width,
        intermediate_size=3 * args.width,
        num_hidden_layers=args.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        head_dim=args.width // heads,
    )
    return get_peft_model(Qwen3ForCausalLM(config).to(args.device, getattr(torch, args.dtype)), adapter)


def variants(args: argparse.Namespace, ids: torch.Tensor) -> dict[str, Callable[[], None]]:
    """One forward and backward of each."""
    lora = build(args, LoraConfig(r=2 * args.rank, lora_alpha=2 * args.rank, target_modules="all-linear"))
    lora2r = build(args, Lora2rConfig(r=args.rank))
    state = lora2r_model(lora2r).forward_state
    w = torch.rand(args.rollouts, device=args.device)
    weights = GateWeights(m=w.unsqueeze(1), d=w)
    layout = SequenceLayout(None, torch.ones(ids.shape, device=args.device), args.rollouts)

    def step(model: PeftModel) -> None:
        model.zero_grad(set_to_none=True)
        model(input_ids=ids, use_cache=False).logits.float().square().mean().backward()

    def gated() -> None:
        with state.gated(weights, layout):
            step(lora2r)

    def read(of_base: bool = False) -> None:
        with (
            torch.no_grad(),
            state.gated(None, layout),
            state.reading_features(MeanPooling().reading(lora2r_model(lora2r)), of_base),
        ):
            lora2r(input_ids=ids, use_cache=False)

    def plain_forward() -> None:
        with torch.no_grad():
            lora(input_ids=ids, use_cache=False)

    return {
        f"PEFT LoRA, rank {2 * args.rank}": lambda: step(lora),
        "lora2r, ungated": lambda: step(lora2r),
        "lora2r, gated": gated,
        "PEFT LoRA, forward only": plain_forward,
        "lora2r, forward with features": read,
        "forward of the base with features": lambda: read(of_base=True),
    }


def arguments(description: str) -> argparse.Namespace:
    """Shapes, device and rounds, from the command line."""
    parser = argparse.ArgumentParser(description=description)
    for name, default in (
        ("width", 128),
        ("layers", 3),
        ("rank", 8),
        ("rollouts", 40),
        ("tokens", 150),
        ("rounds", 15),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    return parser.parse_args()


def compare(
    calls: dict[str, Callable[[], object]], args: argparse.Namespace, base_of: Callable[[str], str]
) -> None:
    """Print the median time of each call, and its ratio to that of its base."""
    times: dict[str, list[float]] = {}
    for _ in range(args.rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if args.device != "cpu":
                torch.cuda.synchronize()
            times.setdefault(name, []).append(time.perf_counter() - start)
    middle = {name: median(seconds[2:]) for name, seconds in times.items()}
    print(
        f"{'variant':36} {'ms':>9} {'ratio':>7}   {args.rollouts} x {args.tokens} tokens, width {args.width}, {args.device}"
    )
    for name, seconds in middle.items():
        print(f"{name:36} {1e3 * seconds:9.1f} {seconds / middle[base_of(name)]:6.2f}x")


def main() -> None:
    args = arguments(__doc__.splitlines()[0])
    ids = torch.randint(0, 768, (args.rollouts, args.tokens), device=args.device)
    calls = variants(args, ids)
    lora = [name for name in calls if name.startswith("PEFT")]
    compare(
        calls, args, lambda name: next(base for base in lora if ("forward" in base) == ("forward" in name))
    )


if __name__ == "__main__":
    main()
