"""The memory arithmetic against the numbers of docs/architecture.md for Qwen3-4B, r = 32, on one 96 GB GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evil_moe.adapter import Lora2rConfig, lora2r_model
from evil_moe.experiment.config import compose
from evil_moe.experiment.doctor.memory import workload
from evil_moe.experiment.doctor.memory_plan import (
    GB,
    Architecture,
    Workload,
    activation_bytes,
    head_bytes,
    layer_bytes,
    plan_memory,
)
from evil_moe.experiment.doctor.memory_text import render
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
def test_parts_of_the_plan(name: str, gb: float):
    assert _by_name()[name] == pytest.approx(gb, abs=0.05 if gb > 1.1 else 0.005)


def test_kv_cache_and_logits():
    plan = plan_memory(QWEN3_4B, WORK)
    assert plan.kv_per_token == 147_456
    assert plan.kv_needed / GB == pytest.approx(58, abs=0.1)
    whole = replace(WORK, train_tokens=3072, fused_head=False)
    assert head_bytes(QWEN3_4B, whole, backward=True) / GB == pytest.approx(1.9, abs=0.05)


@pytest.mark.parametrize(
    ("tokens", "update", "layers", "old_fused", "old_logits"),
    [(2048, 2.72, 0.65, 0.94, 4.36), (6144, 2.88, 1.64, 0.97, 5.60)],
)
def test_the_plan_of_two_layers_is_what_was_measured(
    tokens: int, update: float, layers: float, old_fused: float, old_logits: float
):
    """GB of `scripts/bench/memory.py`, two layers of Qwen3-4B's shapes, within 5 %."""
    model, work = replace(QWEN3_4B, layers=2), replace(WORK, train_tokens=tokens)
    whole = replace(work, fused_head=False)
    gradients = 2 * model.lora_parameters(64)  # there in bfloat16
    inputs = activation_bytes(model, work)[0].bytes
    planned = {
        update: sum(item.bytes for item in activation_bytes(model, work)) + gradients,
        layers: inputs + layer_bytes(model, work, backward=True) + gradients,
        old_fused: max(layer_bytes(model, work, backward=False), head_bytes(model, work, backward=False)),
        old_logits: max(layer_bytes(model, whole, backward=False), head_bytes(model, whole, backward=False)),
    }
    for measured, plan in planned.items():
        assert plan / GB == pytest.approx(measured, rel=0.05)


def test_the_open_layer_and_the_logits_do_not_add_up():
    """The head's tensors are gone when the backward opens the last layer: the greater counts."""
    for tokens, name in ((2048, "log-probs and their gradient"), (24576, "one layer open in the backward")):
        work = replace(WORK, train_tokens=tokens)
        kept = activation_bytes(QWEN3_4B, work)
        assert [item.name for item in kept] == ["checkpointed activations", name]
        assert kept[1].bytes == max(
            layer_bytes(QWEN3_4B, work, backward=True), head_bytes(QWEN3_4B, work, backward=True)
        )


def test_old_log_probs_sync_and_graphs_are_phases_of_their_own():
    whole = plan_memory(QWEN3_4B, replace(WORK, train_tokens=2048, fused_head=False))
    assert whole.old_log_probs[-1].bytes / GB == pytest.approx(4.36, abs=0.05), "the entropy in fp32"
    stays = sum(item.bytes for item in whole.resident)
    old = stays + sum(item.bytes for item in whole.old_log_probs)
    assert whole.training_total == old, "more than the update's own"
    plan = plan_memory(QWEN3_4B, replace(WORK, graph_bytes=1.5 * GB))
    assert plan.sync[-1].bytes / GB == pytest.approx(5.85, abs=0.05)
    assert plan.kv_cache == plan_memory(QWEN3_4B, WORK).kv_cache - 1.5 * GB
    tight = replace(WORK, device_bytes=24 * GB, vllm_bytes=11 * GB)
    assert not plan_memory(QWEN3_4B, tight).fits, "generates in 21 GB, but takes the adapters in 25"


def test_the_plan_follows_the_config():
    with_whole_logits = ["actor_rollout_ref.model.use_fused_kernels=false"]
    files = ["preset=qwen3_4b_1x96gb", "evil_moe.data.train=t", "evil_moe.data.evaluation=e"]
    work, whole = (workload(compose([*files, *more])) for more in ([], with_whole_logits))
    assert work.fused_head and not whole.fused_head
    assert (work.deployed_rank, work.export_rank, work.bucket_bytes) == (
        64,
        128,
        2**31,
    ) and work.graph_bytes > 0


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


def test_split_moment_holds_two_gradients():
    work = workload(compose(["arm=split_moment", "preset=qwen3_4b_1x96gb"]))
    assert (work.gradients, WORK.gradients) == (2, 1)
    assert _by_name(replace(WORK, gradients=2))["gradients (fp32)"] == pytest.approx(1.06, abs=0.005)


def test_windows_keep_the_bottlenecks_of_all_tokens():
    """2 bytes x 252 modules x 32 ranks = 16,128 bytes a token, of 6,144 tokens; in the pass of old log-probs alone."""
    config = compose(["arm=windows", "preset=qwen3_4b_1x96gb"])
    plans = {}
    for pooling in ("window", "last", "mean"):
        config.evil_moe.router.pooling = {"name": pooling, "options": {}}
        plans[pooling] = plan_memory(QWEN3_4B, workload(config))
    means = plans["mean"]
    for pooling in ("window", "last"):
        plan = plans[pooling]
        assert sum(item.bytes for item in plan.old_log_probs) - sum(
            item.bytes for item in means.old_log_probs
        ) == pytest.approx(99_090_432)
        assert (plan.training, plan.rollout, plan.resident) == (means.training, means.rollout, means.resident)
        assert "token bottlenecks" in render(QWEN3_4B, workload(config), plan)
    assert "token bottlenecks" not in render(QWEN3_4B, workload(config), means)
