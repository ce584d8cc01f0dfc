"""Features of texts that are there already, in one Hugging Face forward a batch: for evaluation and for probes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from evil_moe.adapter import Lora2rModel, SequenceLayout, lora2r_model
from evil_moe.features import MeanPooling, Pooling, Reading, gradient_features
from evil_moe.hack_gradient import pair_nll

AnyReading = TypeVar("AnyReading", bound=Reading)


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
    pooling: Pooling | None = None,
    eyes: Float[Tensor, "N M r"] | None = None,
    normalise: bool = True,
) -> Iterator[Float[Tensor, "B *W M r"]]:
    """Features of (prompt ids, response ids), batch by batch, in float32 on the CPU; both blocks on.

    Args:
        kind: `activation` or `gradient`, see `evil_moe.features`.
        of_base: activations of the base model, whatever the adapter has learned.
        pooling: of activations; None for the mean. eyes, normalise: what it looks along, where it looks along any direction.
    """
    pooling = pooling or MeanPooling()
    if kind == "activation":
        eyes = None if eyes is None else eyes.to(model.device)
        for read in read_forwards(model, texts, pooling.reading, batch_size, of_base):
            yield read.features(eyes, normalise=normalise).float().cpu()
        return
    tuner = lora2r_model(model)
    for start in range(0, len(texts), batch_size):
        ids, completion = padded(texts[start : start + batch_size], model.device)
        with (
            tuner.forward_state.gated(None, SequenceLayout(None, completion, len(ids))),
            tuner.forward_state.reading_gradients() as probes,
        ):
            nll = pair_nll(model, ids, torch.ones_like(ids), completion)
            features = gradient_features(-nll.sum(), probes, tuner).cpu()
        yield features  # outside of the gate: the caller may run the model before it asks for more


def read_forwards(
    model: PeftModel,
    texts: Sequence[tuple[list[int], list[int]]],
    new_reading: Callable[[Lora2rModel], AnyReading],
    batch_size: int = 32,
    of_base: bool = False,
) -> Iterator[AnyReading]:
    """A reading of (prompt ids, response ids) for each batch; both blocks on."""
    tuner = lora2r_model(model)
    state = tuner.forward_state
    backbone: Any = model.get_base_model().model  # without the head: its logits are not needed
    for start in range(0, len(texts), batch_size):
        ids, completion = padded(texts[start : start + batch_size], model.device)
        # Padding is on the right of a causal model: no token of a rollout sees it.
        layout = SequenceLayout(None, completion, len(ids))
        with (
            torch.no_grad(),
            state.gated(None, layout),
            state.reading_features(new_reading(tuner), of_base) as read,
        ):
            backbone(input_ids=ids, use_cache=False)
        yield read


def padded(texts: Sequence[tuple[list[int], list[int]]], device: Any) -> tuple[Tensor, Tensor]:
    """Token ids `[B, T]`, padded on the right, and the completion mask."""
    length = max(len(prompt) + len(response) for prompt, response in texts)
    ids = torch.zeros(len(texts), length, dtype=torch.long, device=device)
    completion = torch.zeros(len(texts), length, device=device)
    for i, (prompt, response) in enumerate(texts):
        end = len(prompt) + len(response)
        ids[i, :end] = torch.tensor(prompt + response)
        completion[i, len(prompt) : end] = 1
    return ids, completion
