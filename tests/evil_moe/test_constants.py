"""Rotary frequencies after a cast of the whole model, for every kind that transformers knows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from evil_moe.constants import restore_constants_

SHAPE: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
ROTARY: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 4.0},
    "proportional": {},
    "yarn": {"factor": 2.0, "original_max_position_embeddings": 32},
    "llama3": {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
    },
    "longrope": {
        "short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "original_max_position_embeddings": 32, "factor": 2.0,
    },
}  # fmt: skip


def test_every_kind_of_rotary_embedding_is_tried() -> None:
    assert set(ROTARY) == {"default", *ROPE_INIT_FUNCTIONS}


def models() -> dict[str, PreTrainedModel]:
    made: dict[str, PreTrainedModel] = {}
    for kind, options in ROTARY.items():
        rope = {"rope_type": kind, "rope_theta": 1e6, **options}
        made[f"llama {kind}"] = LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=rope))
        made[f"qwen3 {kind}"] = Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=16, rope_parameters=rope))
    rope = {"rope_type": "longrope", "rope_theta": 1e4, **ROTARY["longrope"]}
    made["phi3"] = Phi3ForCausalLM(Phi3Config(**SHAPE, rope_parameters=rope))
    kinds = ["sliding_attention", "full_attention"]
    made["gemma3"] = Gemma3ForCausalLM(Gemma3TextConfig(**SHAPE, head_dim=16, layer_types=kinds))
    return made


@pytest.mark.filterwarnings("ignore")
def test_frequencies_are_what_the_architecture_makes_them() -> None:
    for name, model in models().items():
        frequencies = {key: value for key, value in model.named_buffers() if key.endswith("inv_freq")}
        assert len(frequencies) == (4 if name == "gemma3" else 2)
        model.to(torch.bfloat16)
        generator = torch.random.get_rng_state()
        assert set(frequencies) == set(restore_constants_(model)), name
        assert torch.equal(torch.random.get_rng_state(), generator)
        restored = dict(model.named_buffers())
        for key, value in frequencies.items():
            assert restored[key].dtype == torch.float32 and torch.equal(restored[key], value), (name, key)
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        assert restore_constants_(model) == []


def test_a_float32_model_is_left_alone() -> None:
    model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    before = dict(model.named_buffers())
    assert restore_constants_(model) == []
    assert all(value is before[key] for key, value in model.named_buffers())
