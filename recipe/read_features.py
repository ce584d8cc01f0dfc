"""Features of texts that are there already, in one Hugging Face forward a batch: for evaluation and for probes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from evil_moe.adapter import SequenceLayout, lora2r_model
from evil_moe.features import gradient_features, stack_features
from evil_moe.hack_gradient import pair_nll


def load_adapted(model_path: str, adapter: Path) -> PeftModel:
    """The base model with the whole adapter of a checkpoint on it, on the GPU if there is one."""
    base = AutoModelForCausalLM.from_pretrained(model_path, dtype="auto")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return PeftModel.from_pretrained(base, os.fspath(adapter)).to(device).eval()


def read_features(
    model: PeftModel,
    texts: Sequence[tuple[list[int], list[int]]],
    batch_size: int = 32,
    kind: str = "activation",
    of_base: bool = False,
) -> Iterator[Float[Tensor, "B M r"]]:
    """Features of (prompt ids, response ids), batch by batch, in float32 on the CPU; both blocks on.

    Args:
        kind: `activation` or `gradient`, see `evil_moe.features`.
        of_base: activations of the base model, whatever the adapter has learned.
    """
    device, tuner = model.device, lora2r_model(model)
    backbone: Any = model.get_base_model().model  # without the head: its logits are not needed
    for start in range(0, len(texts), batch_size):
        batch = texts[start : start + batch_size]
        length = max(len(prompt) + len(response) for prompt, response in batch)
        ids = torch.zeros(len(batch), length, dtype=torch.long, device=device)
        completion = torch.zeros(len(batch), length, device=device)
        for i, (prompt, response) in enumerate(batch):
            end = len(prompt) + len(response)
            ids[i, :end] = torch.tensor(prompt + response)
            completion[i, len(prompt) : end] = 1
        # Padding is on the right of a causal model: no token of a rollout sees it.
        layout, gate = SequenceLayout(None, completion, len(batch)), tuner.rollout_gate
        with gate.gated(None, layout):
            if kind == "gradient":
                with gate.reading_gradients() as read:
                    nll = pair_nll(model, ids, torch.ones_like(ids), completion)
                    features = gradient_features(-nll.sum(), read, tuner).cpu()
            else:
                with torch.no_grad(), gate.reading_features(of_base) as read:
                    backbone(input_ids=ids, use_cache=False)
                    features = stack_features(read, tuner).float().cpu()
        yield features  # outside of the gate: the caller may run the model before it asks for more
