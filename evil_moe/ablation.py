"""Deployment: the quarantine back at its init, for a while or for good."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import PeftModel
from torch import Tensor

from evil_moe.adapter import lora2r_model


def _quarantine_views(model: PeftModel, adapter_name: str) -> list[Tensor]:
    views = []
    for layer in lora2r_model(model).lora2r_layers():
        r = layer.configs[adapter_name].r
        views += [layer.lora_2r_dA[adapter_name][r:], layer.lora_2r_dB[adapter_name][:, r:]]
    return views


@torch.no_grad()
def reset_quarantine_(model: PeftModel, adapter_name: str = "default") -> None:
    """Put every quarantine block back to its init for good: `dA[r:] = 0, dB[:, r:] = 0`.

    The block can be trained again afterwards.

    Raises:
        TypeError: the model carries no lora2r adapter.
    """
    for view in _quarantine_views(model, adapter_name):
        view.zero_()


@contextmanager
def quarantine_reset(model: PeftModel, adapter_name: str = "default") -> Iterator[None]:
    """Reset the quarantine within the block and restore it to the bit afterwards, also after an error."""
    saved = [view.detach().clone() for view in _quarantine_views(model, adapter_name)]
    reset_quarantine_(model, adapter_name)
    try:
        yield
    finally:
        with torch.no_grad():
            for view, value in zip(_quarantine_views(model, adapter_name), saved, strict=True):
                view.copy_(value)
