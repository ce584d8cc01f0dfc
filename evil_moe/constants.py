"""A model's constants: buffers that no checkpoint holds, the frequencies of its rotary embeddings before all.

A cast of the whole model, `model.to(torch.bfloat16)`, rounds them as well. bfloat16 keeps 8 bits of a frequency, an error
of up to 0.4 %, which at position 1,000 is a turn of a radian, while an inference engine computes the same frequencies in
float32: the model that is trained would not be the one that samples.
"""

from __future__ import annotations

import copy

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import PreTrainedModel


def restore_constants_(model: PreTrainedModel) -> list[str]:
    """Undo a cast of the constants: each gets the dtype and value that its architecture gives it, on the device it is on.

    They are taken from a second model of the same class and config, which has no weights; so that of every architecture
    and kind of rotary embedding all are restored (`inv_freq`, `original_inv_freq`, those of each type of layers).
    Parameters, and buffers that checkpoints hold, stay as they are. Call it before the model is wrapped.

    Returns:
        Names of the buffers that had another dtype.
    """
    changed = []
    made: dict[str, Tensor] = {}
    for prefix, module in model.named_modules():
        for name in module._non_persistent_buffers_set:
            given = module._buffers[name]
            if given is None or not given.is_floating_point() or given.dtype == torch.float32:
                continue
            full = f"{prefix}.{name}".lstrip(".")
            made = made or _constants(model)
            if made[full].dtype != given.dtype:
                module._buffers[name] = made[full].to(given.device)
                changed.append(full)
    return changed


def _constants(model: PreTrainedModel) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
        twin: nn.Module = type(model)._from_config(copy.deepcopy(model.config), dtype=model.dtype)
    return dict(twin.named_buffers())
