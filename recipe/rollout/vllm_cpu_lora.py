"""Patch of vLLM 0.28.0's LoRA for linear layers on CPU: matrix products instead of one gather of weights per token.

Why: the stock kernels copy the adapter's weights for every token of the batch (`weights[indices]`), which takes
most of the generation time of a small policy, and read index -1, "no adapter", as the last slot.
Removal: when vLLM's CPU LoRA kernels group tokens by adapter. Only for CPU; GPU kernels are not touched.
`scripts/bench/cpu_lora.py` compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

VLLM_VERSION = "0.28.0"


def add_lora_linear(
    y: Tensor,
    x: Tensor,
    indices: Tensor,
    a_stacked: Sequence[Tensor],
    b_stacked: Sequence[Tensor],
    scale: float,
    output_slices: Sequence[int],
) -> None:
    """Add to each slice of `y` the low-rank update of the row's adapter, in place.

    `y` is `[n, sum of output_slices]`, `x` `[n, in]`, `indices` `[n]` the row's slot or -1; per slice, `a` is
    `[slots, 1, rank, in]` and `b` `[slots, 1, out, rank]`. All slots' down projections are one product, of which a
    row keeps its own slot's part: at a decode step's sizes, calls cost more than arithmetic.
    """
    slots, _, rank, width = a_stacked[0].shape
    others = (indices.unsqueeze(1) != torch.arange(slots)).unsqueeze(2)
    start = 0
    for a, b, size in zip(a_stacked, b_stacked, output_slices, strict=True):
        low = (x @ a.view(slots * rank, width).T).view(-1, slots, rank).masked_fill_(others, 0.0)
        y[:, start : start + size].addbmm_(low.transpose(0, 1), b[:, 0].transpose(1, 2), alpha=scale)
        start += size


def _add_lora_linear(
    self: Any,
    y: Tensor,
    x: Tensor,
    lora_a_stacked: tuple[Tensor, ...],
    lora_b_stacked: tuple[Tensor, ...],
    scale: float,
    output_slices: tuple[int, ...],
    **_: Any,
) -> None:
    """`PunicaWrapperCPU.add_lora_linear`; its scratch buffer is not needed."""
    y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
    add_lora_linear(y, x, self.token_lora_indices, lora_a_stacked, lora_b_stacked, scale, output_slices)


def apply() -> None:
    """Put our method in the place of vLLM's, in this process; a second call changes nothing.

    Raises:
        RuntimeError: another vLLM than the one this was written for.
    """
    import vllm
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    if not vllm.__version__.startswith(VLLM_VERSION) or not hasattr(PunicaWrapperCPU, "add_lora_linear"):
        raise RuntimeError(
            f"recipe/rollout/vllm_cpu_lora.py patches vLLM {VLLM_VERSION}, found {vllm.__version__}: look at its CPU LoRA kernels "
            "again, and drop the patch if they group tokens by adapter"
        )
    PunicaWrapperCPU.add_lora_linear = _add_lora_linear
