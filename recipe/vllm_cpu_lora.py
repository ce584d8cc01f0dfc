"""Patch of vLLM 0.28.0's CPU kernels for LoRA: one matrix product per adapter instead of one gather per token.

Why: the stock kernels copy the adapter's weights for every token of the batch (`weights[indices]`), which takes
most of the generation time of a small policy, and read index -1, "no adapter", as the last slot.
Removal: when vLLM's CPU LoRA kernels group tokens by adapter. Only for CPU; GPU kernels are not touched.
`scripts/bench/cpu_lora.py` compares the two.
"""

from __future__ import annotations

import torch
from torch import Tensor

VLLM_VERSION = "0.28.0"


def _by_slot(inputs: Tensor, weights: Tensor, indices: Tensor, dtype: torch.dtype) -> Tensor:
    """`weights[index of the row] @ row`, zero for index -1; inputs `[n, in]`, weights `[slots, 1?, out, in]`."""
    if weights.ndim == 4:
        weights = weights.squeeze(1)
    inputs = inputs.to(dtype)
    out = inputs.new_zeros(inputs.shape[0], weights.shape[1])
    for slot, weight in enumerate(weights):
        rows = indices == slot
        if rows.all():
            return inputs @ weight.to(dtype).T
        if rows.any():
            out[rows] = inputs[rows] @ weight.to(dtype).T
    return out


def bgmv_shrink(
    inputs: Tensor,
    lora_b_weights: Tensor,
    output_tensor: Tensor,
    lora_indices_tensor: Tensor,
    scaling: float = 1.0,
) -> None:
    out = _by_slot(inputs, lora_b_weights, lora_indices_tensor, output_tensor.dtype)
    output_tensor[:, : out.shape[1]] = scaling * out


def bgmv_expand(
    inputs: Tensor,
    lora_b_weights: Tensor,
    output_tensor: Tensor,
    lora_indices_tensor: Tensor,
    add_inputs: bool = True,
) -> None:
    size = min(lora_b_weights.shape[-2], output_tensor.shape[1])
    bgmv_expand_slice(inputs, lora_b_weights, output_tensor, lora_indices_tensor, 0, size, add_inputs)


def bgmv_expand_slice(
    inputs: Tensor,
    lora_b_weights: Tensor,
    output_tensor: Tensor,
    lora_indices_tensor: Tensor,
    slice_offset: int,
    slice_size: int,
    add_inputs: bool = True,
) -> None:
    out = _by_slot(inputs, lora_b_weights, lora_indices_tensor, output_tensor.dtype)
    target = output_tensor[: len(out), slice_offset : slice_offset + slice_size]
    out = out[:, :slice_size]
    if add_inputs:
        target += out
    else:
        target.copy_(out)


def apply() -> None:
    """Put the functions above in the place of vLLM's, in this process; a second call changes nothing.

    Raises:
        RuntimeError: another vLLM than the one this was written for.
    """
    import vllm
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    if not vllm.__version__.startswith(VLLM_VERSION):
        raise RuntimeError(
            f"recipe/vllm_cpu_lora.py patches vLLM {VLLM_VERSION}, found {vllm.__version__}: look at its CPU LoRA kernels "
            "again, and drop the patch if they group tokens by adapter"
        )
    for function in (bgmv_shrink, bgmv_expand, bgmv_expand_slice):
        for module in (lora_ops, punica_cpu):
            if not hasattr(module, function.__name__):
                raise RuntimeError(f"{module.__name__} has no {function.__name__} to patch")
            setattr(module, function.__name__, function)
