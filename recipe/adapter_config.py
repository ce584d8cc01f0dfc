"""The adapter that a run's config asks for; the one place that reads its keys."""

from __future__ import annotations

from typing import Any

import torch
from omegaconf import OmegaConf
from peft import TaskType
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from evil_moe.adapter import Lora2rConfig


def adapter_config(model: Any, adapter: Any) -> Lora2rConfig:
    """The adapter of `actor_rollout_ref.model` and `evil_moe.adapter`, each as a config node or as its dataclass."""
    return Lora2rConfig(
        task_type=TaskType.CAUSAL_LM,
        r=model.lora_rank,
        lora_alpha=model.lora_alpha,
        num_quarantine=adapter.num_quarantine,
        quarantine_rank=adapter.quarantine_rank,
        init_seed=adapter.init_seed,
        target_modules=_plain(model.target_modules),
        exclude_modules=_plain(model.exclude_modules),
    )


def linear_names(target_modules: Any, model_config: PretrainedConfig) -> list[str] | None:
    """Last names of the linears that an adapter of these targets can reach; None if only its modules would tell.

    Args:
        target_modules: `actor_rollout_ref.model.target_modules`: names, "all-linear" or a regular expression.
        model_config: of the policy; it is built without weights.
    """
    targets = _plain(target_modules)
    if not isinstance(targets, str):
        return sorted(targets)
    if targets != "all-linear":
        return None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config)
    head = model.get_output_embeddings()  # PEFT leaves it out of "all-linear"
    linears = (
        name for name, part in model.named_modules() if isinstance(part, nn.Linear) and part is not head
    )
    return sorted({name.rsplit(".", 1)[-1] for name in linears})


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node) if OmegaConf.is_config(node) else node
