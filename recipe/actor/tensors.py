"""verl's batches as plain tensors: dense, scaled, and where sequences lie."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from evil_moe.adapter import SequenceLayout


def dense(tensor: Tensor) -> Tensor:
    """`[B, ...]` of a jagged tensor whose rows all have one length."""
    return torch.stack(list(tensor.unbind())) if tensor.is_nested else tensor


def scaled_rows(mask: Tensor, scale: Tensor) -> Tensor:
    """A jagged mask with every row times the row's entry of `scale: [B]`."""
    rows = [row * factor for row, factor in zip(mask.unbind(), scale.to(mask.device), strict=True)]
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def sequence_layout(micro_batch: TensorDict, inputs: dict[str, Any]) -> SequenceLayout:
    """Where the micro-batch's sequences lie in the model's inputs, packed or padded, and their completions."""
    lengths = micro_batch["input_ids"].offsets().diff()
    completions = micro_batch["responses"].offsets().diff()
    n, device = len(lengths), lengths.device
    segment = torch.repeat_interleave(torch.arange(n, device=device), lengths)
    starts = micro_batch["input_ids"].offsets()[:-1]
    position = torch.arange(len(segment), device=device) - starts[segment]
    completion = (position >= (lengths - completions)[segment]).float()
    if inputs["attention_mask"] is not None:
        padded = torch.zeros(n, inputs["input_ids"].shape[1], device=device)
        padded[segment, position] = completion
        return SequenceLayout(None, padded, n)
    padding = inputs["input_ids"].shape[-1] - len(segment)
    if padding:  # verl's bucket padding is a suffix; give it to the last rollout, outside its completion
        segment = torch.cat([segment, segment.new_full((padding,), n - 1)])
        completion = torch.cat([completion, completion.new_zeros(padding)])
    return SequenceLayout(segment, completion, n)
