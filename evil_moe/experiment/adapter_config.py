"""The adapter that a run's config asks for; the one place that reads its keys."""

from __future__ import annotations

from typing import Any

import torch
from omegaconf import OmegaConf
from peft import TaskType, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from evil_moe.adapter import Lora2rConfig, lora2r_model


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


def check_targets(model: Any, model_config: PretrainedConfig) -> None:
    """What wrapping the policy would find at the start of training, on a model without weights.

    Raises:
        ValueError: the targets are not there, are no linears, or reach the output head, whose weight the log-probs and vLLM
            read past an adapter.
    """
    with torch.device("meta"):
        policy = AutoModelForCausalLM.from_config(model_config)
    targets, left_out = _plain(model.target_modules), _plain(model.exclude_modules)
    key = f"actor_rollout_ref.model.target_modules={targets}"
    config = Lora2rConfig(task_type=TaskType.CAUSAL_LM, r=1, target_modules=targets, exclude_modules=left_out)
    head = policy.get_output_embeddings()
    names = {id(part): name for name, part in policy.named_modules()}
    try:
        layers = lora2r_model(get_peft_model(policy, config)).lora2r_layers()
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
    if any(layer.get_base_layer() is head for layer in layers):
        raise ValueError(
            f"{key} reaches {names[id(head)]}, the output head: log-probs and vLLM read its weight past an adapter; leave it out, "
            f"or set actor_rollout_ref.model.exclude_modules=[{names[id(head)]}]"
        )


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node) if OmegaConf.is_config(node) else node
