"""The linears that vLLM is told of."""

from __future__ import annotations

import pytest
from transformers import Qwen3Config

from evil_moe.experiment.adapter_config import linear_names


@pytest.mark.parametrize("tied", [True, False])
def test_vllm_hears_of_all_linears_but_the_output_layer(tied: bool) -> None:
    config = Qwen3Config(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, vocab_size=64, tie_word_embeddings=tied
    )
    of_a_layer = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert linear_names("all-linear", config) == of_a_layer
    assert linear_names(["q_proj", "lm_head"], config) == ["lm_head", "q_proj"]
    assert linear_names(r"model\.layers\.1\..*", config) is None
