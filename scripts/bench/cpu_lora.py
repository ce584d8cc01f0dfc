"""vLLM's CPU LoRA kernels against ours (recipe/rollout/vllm_cpu_lora.py), side by side in one run, at the nano shapes.

python scripts/bench/cpu_lora.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from recipe.rollout import vllm_cpu_lora

REPEATS = 30
TOKENS = {"decode, 80 rollouts": 80, "prefill, 8 prompts of 90 tokens": 720}
WIDTH, RANK, SLOTS = 128, 32, 2
SLICES = (384, 384)  # gate and up projection


def seconds(call: Callable[[], None]) -> float:
    """Median time of a call."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return sorted(times)[REPEATS // 2]


def main() -> None:
    torch.set_num_threads(1)
    stock_method = PunicaWrapperCPU.add_lora_linear
    a = tuple(torch.randn(SLOTS, 1, RANK, WIDTH) for _ in SLICES)
    b = tuple(torch.randn(SLOTS, 1, size, RANK) for size in SLICES)
    print(f"{'case':34} {'vLLM ms':>9} {'ours ms':>9} {'ratio':>7}   (in {WIDTH}, out {SLICES}, rank {RANK})")
    for name, tokens in TOKENS.items():
        x, y = torch.randn(tokens, WIDTH), torch.zeros(tokens, sum(SLICES))
        wrapper = PunicaWrapperCPU(tokens, tokens, "cpu")
        wrapper._token_lora_indices[:] = (torch.arange(tokens) % 4 == 0).long()
        wrapper.indices_len[0] = tokens

        def stock(wrapper=wrapper, y=y, x=x) -> None:
            stock_method(wrapper, y, x, a, b, 1.0, SLICES)

        def ours(wrapper=wrapper, y=y, x=x) -> None:
            vllm_cpu_lora.add_lora_linear(y, x, wrapper.token_lora_indices, a, b, 1.0, SLICES)

        before, after = seconds(stock), seconds(ours)
        print(f"{name:34} {before * 1e3:9.2f} {after * 1e3:9.2f} {before / after:6.1f}x")


if __name__ == "__main__":
    main()
