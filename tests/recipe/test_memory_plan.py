"""The memory arithmetic against the design's numbers for Qwen3-4B, r = 32, on one 96 GB GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evil_moe.adapter import Lora2rConfig, lora2r_model
from recipe.doctor.memory_plan import (
    GB,
    Architecture,
    Workload,
    activation_bytes,
    logit_bytes,
    plan_memory,
    render,
)
from tests.conftest import tiny_qwen3

QWEN3_4B = Architecture(
    layers=36, hidden=2560, intermediate=9728, heads=32, kv_heads=8, head_dim=128, vocab=151936, tied=True
)
WORK = Workload(
    ranks=1,
    total_rank=64,
    export_rank=128,
    lora_slots=2,
    train_tokens=12288,
    gradient_checkpointing=True,
    max_num_seqs=128,
    max_model_len=3072,
    base_bytes=2,
    compute_bytes=2,
    rollout_bytes=2,
    device_bytes=96 * GB,
    vllm_bytes=0.65 * 96 * GB,
)


def _by_name(work: Workload = WORK) -> dict[str, float]:
    plan = plan_memory(QWEN3_4B, work)
    return {item.name: item.bytes / GB for item in (*plan.resident, *plan.training, *plan.rollout)}


def test_counts():
    assert QWEN3_4B.num_linears == 252
    assert QWEN3_4B.lora_parameters(64) / 1e6 == pytest.approx(132, abs=0.5)
    assert QWEN3_4B.parameters / 1e9 == pytest.approx(4.02, abs=0.005)


@pytest.mark.parametrize(
    ("name", "gb"),
    [
        ("base weights, actor", 8.0),
        ("base weights, vLLM", 8.0),
        ("adapter dA, dB (fp32)", 0.53),
        ("gradients (fp32)", 0.53),
        ("Adam (fp32)", 1.06),
        ("frozen init A0, B0", 0.26),
        ("2 LoRA slots of rank 128", 1.06),
        ("checkpointed activations", 2.3),
    ],
)
def test_design_section_6(name: str, gb: float):
    assert _by_name()[name] == pytest.approx(gb, abs=0.05 if gb > 1.1 else 0.005)


def test_kv_cache_and_logits_of_design_section_6():
    plan = plan_memory(QWEN3_4B, WORK)
    assert plan.kv_per_token == 147_456
    assert plan.kv_needed / GB == pytest.approx(58, abs=0.1)
    assert logit_bytes(QWEN3_4B, replace(WORK, train_tokens=3072)) / GB == pytest.approx(1.9, abs=0.05)


def test_training_peak_of_design_section_6():
    plan = plan_memory(QWEN3_4B, WORK)
    assert plan.training_total / GB == pytest.approx(25, abs=1.5)
    assert plan.fits


def test_sharding_splits_weights_and_optimizer_but_not_buffers_or_vllm():
    one, eight = _by_name(), _by_name(replace(WORK, ranks=8))
    for name in ("base weights, actor", "adapter dA, dB (fp32)", "gradients (fp32)", "Adam (fp32)"):
        assert eight[name] == pytest.approx(one[name] / 8)
    for name in ("frozen init A0, B0", "base weights, vLLM", "checkpointed activations", "KV cache"):
        assert eight[name] == one[name]


def test_what_does_not_fit_is_said():
    small = replace(WORK, device_bytes=24 * GB, vllm_bytes=0.9 * 24 * GB)
    assert not plan_memory(QWEN3_4B, small).fits
    assert "vLLM queues the rest" in render(QWEN3_4B, small, plan_memory(QWEN3_4B, small))


def test_no_room_for_a_cache_does_not_fit():
    plan = plan_memory(QWEN3_4B, replace(WORK, vllm_bytes=5 * GB))
    assert plan.kv_cache == 0
    assert not plan.fits


def test_checkpointing_saves_activations():
    kept = sum(item.bytes for item in activation_bytes(QWEN3_4B, WORK))
    all_of_them = sum(
        item.bytes for item in activation_bytes(QWEN3_4B, replace(WORK, gradient_checkpointing=False))
    )
    assert kept < all_of_them / 5


def test_counts_match_a_real_model():
    from peft import get_peft_model

    model = tiny_qwen3()
    architecture = Architecture.from_hf(model.config)
    assert architecture.parameters == model.num_parameters()
    adapted = get_peft_model(model, Lora2rConfig(r=4, task_type="CAUSAL_LM"))
    assert architecture.num_linears == len(lora2r_model(adapted).lora2r_layers())
    trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert architecture.lora_parameters(8) == trainable


def test_an_architecture_with_a_missing_number_is_refused():
    with pytest.raises(ValueError, match=r"policy\.architecture.*vocab"):
        Architecture.from_mapping({"layers": 1, "hidden": 2})
