"""From a config to a memory plan: which model, which workload, which device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from evil_moe.experiment.adapter_config import adapter_config, check_targets
from evil_moe.experiment.doctor.checks import FROM_GGUF, is_hub_name
from evil_moe.experiment.doctor.finding import FAIL, OK, WARN, Finding
from evil_moe.experiment.doctor.memory_plan import GB, Architecture, Workload, plan_memory
from evil_moe.experiment.doctor.memory_text import render
from evil_moe.export import KINDS, export_rank
from evil_moe.features import MeanPooling, make_pooling
from evil_moe.gradients import make_gradient_transform

TIGHT = 0.9
GRAPH_GB = 1.5
"""Of vLLM's CUDA graphs; not measured by us. vLLM logs its own estimate at its start."""
_GIB = 2**30
_ENVIRONMENT = "ray_kwargs.ray_init.runtime_env.env_vars"
_BYTES = {"float32": 4, "fp32": 4, "bfloat16": 2, "bf16": 2, "float16": 2, "fp16": 2}


def check_memory(config: DictConfig) -> Finding:
    """Whether both phases fit, with the plan as its detail."""
    model = find_architecture(config)
    if model is None:
        mend = "give the model's numbers in evil_moe.policy.architecture"
        return Finding("memory", WARN, "no plan: the model's config is not at hand", mend)
    work = workload(config)
    plan = plan_memory(model, work)
    status, mend = OK, ""
    if plan.kv_cache == 0:
        status, mend = FAIL, "raise rollout.gpu_memory_utilization: vLLM has no room for a KV cache"
    elif not plan.fits:
        status = FAIL
        mend = "lower actor.ppo_max_token_len_per_gpu or rollout.gpu_memory_utilization, or use more ranks"
    elif max(plan.training_total, plan.rollout_total) > TIGHT * plan.device:
        status, mend = WARN, "tight"
    phases = f"training {plan.training_total / GB:.1f}, rollout {plan.rollout_total / GB:.1f}"
    return Finding(
        "memory", status, f"{phases} of {plan.device / GB:.1f} GB", mend, render(model, work, plan)
    )


def find_architecture(config: DictConfig) -> Architecture | None:
    """The model's own config if it is at hand, else the preset's numbers."""
    if (found := find_model_config(config)) is not None:
        return Architecture.from_hf(found)
    numbers = OmegaConf.select(config.evil_moe.policy, "architecture")
    return None if numbers is None else Architecture.from_mapping(numbers)


def find_model_config(config: DictConfig) -> Any:
    """The policy's Hugging Face config, from its folder or the cache; None if it is not at hand."""
    path = str(config.actor_rollout_ref.model.path)
    found: Any = str(Path(path) / "config.json")
    if config.evil_moe.policy.kind == "nano" and not Path(found).is_file():
        return _nano_config()
    if config.evil_moe.policy.kind in FROM_GGUF and not Path(found).is_file():
        from evil_moe.experiment.assets.policies import gguf_file
        from evil_moe.gguf_policy import gguf_config

        try:
            return gguf_config(gguf_file(config))
        except ValueError:  # of the policy, which check_model speaks of
            return None
    if not Path(found).is_file() and is_hub_name(path):
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(path, "config.json")
    if isinstance(found, str) and Path(found).is_file():
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(str(Path(found).parent))
    return None


def check_adapter(config: DictConfig) -> Finding:
    """Whether the adapter's targets are linears of the model that it can be on."""
    found = find_model_config(config)
    if found is None:
        return Finding("adapter", WARN, "not checked: the model's config is not at hand")
    try:
        check_targets(config.actor_rollout_ref.model, found)
    except ValueError as error:
        return Finding("adapter", FAIL, str(error))
    return Finding("adapter", OK, f"target_modules={config.actor_rollout_ref.model.target_modules} are there")


def _nano_config() -> Any:
    """The nano policy's config. Its tokenizer is trained with it; one from few problems has the same size."""
    from evil_moe.nano_policy import build_model, train_tokenizer
    from reward.nano import generate

    rows = generate("train", 200, seed=0)
    return build_model(
        train_tokenizer([f"{row['question']}\n{row['canonical_solution']}" for row in rows]), seed=0
    ).config


def workload(config: DictConfig) -> Workload:
    """What of the config the plan depends on; one rank a device."""
    actor, rollout, model = (config.actor_rollout_ref[name] for name in ("actor", "rollout", "model"))
    ranks = int(config.trainer.nnodes * config.trainer.n_gpus_per_node)
    lora = adapter_config(model, config.evil_moe.adapter)
    longest = int(config.data.max_prompt_length + config.data.max_response_length)
    if actor.use_dynamic_bsz:
        tokens = int(actor.ppo_max_token_len_per_gpu)
    else:
        tokens = int(actor.ppo_micro_batch_size_per_gpu) * longest
    on_cpu = config.trainer.device == "cpu"
    device = _device_bytes(config) / (ranks if on_cpu else 1)  # ranks on a CPU share its memory
    kv_gib = OmegaConf.select(config, f"{_ENVIRONMENT}.VLLM_CPU_KVCACHE_SPACE", default=0)
    gradient = config.evil_moe.gradient
    unrouted = gradient.name and make_gradient_transform(gradient.name, **gradient.options).needs_unrouted
    pooling = config.evil_moe.router.pooling
    by_mean = isinstance(make_pooling(pooling.name or "mean", **pooling.options), MeanPooling)
    param_dtype = OmegaConf.select(actor, "fsdp_config.mixed_precision.param_dtype", default="bf16")
    return Workload(
        ranks=ranks,
        total_rank=lora.total_rank,
        export_rank=export_rank(lora, "full"),
        lora_slots=len(KINDS) + on_cpu,
        train_tokens=tokens,
        gradient_checkpointing=bool(model.enable_gradient_checkpointing),
        max_num_seqs=int(rollout.max_num_seqs),
        max_model_len=int(rollout.max_model_len or longest),
        base_bytes=_BYTES[str(actor.fsdp_config.model_dtype)],
        compute_bytes=_BYTES[str(param_dtype)],
        rollout_bytes=_BYTES[str(rollout.dtype)],
        device_bytes=device,
        vllm_bytes=None if on_cpu else rollout.gpu_memory_utilization * device,
        kv_cache_bytes=float(kv_gib) * _GIB,
        fused_head=bool(model.use_fused_kernels),
        deployed_rank=export_rank(lora, "deployed"),
        bucket_bytes=float(rollout.checkpoint_engine.update_weights_bucket_megabytes) * 2**20,
        graph_bytes=0.0 if on_cpu or rollout.enforce_eager else GRAPH_GB * GB,
        gradients=2 if unrouted else 1,
        kept_rank=0 if by_mean else int(lora.r),
    )


def _device_bytes(config: DictConfig) -> float:
    """Memory of the device at hand, or of the one that the preset is for."""
    import torch

    if config.trainer.device == "cpu":
        import psutil

        return float(psutil.virtual_memory().total)
    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info(0)[1])
    return float(config.evil_moe.policy.device_memory_gb) * GB
