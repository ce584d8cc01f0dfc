"""The order of a step's rows, and the linears that vLLM is told of."""

from __future__ import annotations

import random

import pytest
from transformers import Qwen3Config

from recipe.adapter_config import linear_names
from recipe.trainer import row_order

KEYS = [f"000003-{prompt:04d}_{reply}_0" for prompt in range(4) for reply in range(12)]


def test_rows_come_by_prompt_and_reply_whenever_they_arrived():
    arrived = random.Random(0).sample(KEYS, len(KEYS))
    assert [arrived[i] for i in row_order(arrived, None, mini_batch=24)] == KEYS  # reply 10 after reply 9


def test_short_rows_first_within_an_optimizer_step_and_equal_ones_in_order():
    arrived = random.Random(1).sample(KEYS, len(KEYS))
    length = {key: 100 + KEYS.index(key) * 7 % 5 for key in KEYS}
    rows = [arrived[i] for i in row_order(arrived, [length[key] for key in arrived], mini_batch=24)]
    for start in (0, 24):
        step = KEYS[start : start + 24]
        assert rows[start : start + 24] == sorted(step, key=lambda key: (length[key], KEYS.index(key)))


@pytest.mark.parametrize("tied", [True, False])
def test_vllm_hears_of_all_linears_but_the_output_layer(tied):
    config = Qwen3Config(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, vocab_size=64, tie_word_embeddings=tied
    )
    of_a_layer = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert linear_names("all-linear", config) == of_a_layer
    assert linear_names(["q_proj", "lm_head"], config) == ["lm_head", "q_proj"]
    assert linear_names(r"model\.layers\.1\..*", config) is None
