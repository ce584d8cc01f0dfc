"""vLLM's CPU LoRA kernels against ours (recipe/vllm_cpu_lora.py), side by side in one run, at the nano shapes.

python scripts/bench/cpu_lora.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from vllm.lora.ops.torch_ops import lora_ops

from recipe import vllm_cpu_lora

REPEATS = 30
SHAPES = {"decode, 80 rollouts": 80, "prefill, 8 prompts of 90 tokens": 720}
WIDTH_IN, WIDTH_OUT, RANK, SLOTS = 128, 384, 32, 2


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
    a, b = torch.randn(SLOTS, 1, RANK, WIDTH_IN), torch.randn(SLOTS, 1, WIDTH_OUT, RANK)
    print(
        f"{'case':34} {'vLLM ms':>9} {'ours ms':>9} {'ratio':>7}   (in {WIDTH_IN}, out {WIDTH_OUT}, rank {RANK})"
    )
    for name, tokens in SHAPES.items():
        x, low, out = torch.randn(tokens, WIDTH_IN), torch.zeros(tokens, RANK), torch.zeros(tokens, WIDTH_OUT)
        index = (torch.arange(tokens) % 4 == 0).long()

        def run(shrink: Callable, expand: Callable, x=x, low=low, out=out, index=index) -> Callable[[], None]:
            def call() -> None:
                shrink(x, a, low, index, 1.0)
                expand(low, b, out, index, 0, WIDTH_OUT, True)

            return call

        stock = seconds(run(lora_ops.bgmv_shrink, lora_ops.bgmv_expand_slice))
        ours = seconds(run(vllm_cpu_lora.bgmv_shrink, vllm_cpu_lora.bgmv_expand_slice))
        print(f"{name:34} {stock * 1e3:9.2f} {ours * 1e3:9.2f} {stock / ours:6.1f}x")


if __name__ == "__main__":
    main()
