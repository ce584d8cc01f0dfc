"""The adapter that a run's config asks for; the one place that reads its keys."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf
from peft import TaskType

from evil_moe.adapter import Lora2rConfig


def adapter_config(model: Any, adapter: Any) -> Lora2rConfig:
    """The adapter of `actor_rollout_ref.model` and `evil_moe.adapter`, each as a config node or as its dataclass."""

    def plain(node: Any) -> Any:
        return OmegaConf.to_container(node) if OmegaConf.is_config(node) else node

    return Lora2rConfig(
        task_type=TaskType.CAUSAL_LM,
        r=model.lora_rank,
        lora_alpha=model.lora_alpha,
        num_quarantine=adapter.num_quarantine,
        quarantine_rank=adapter.quarantine_rank,
        init_seed=adapter.init_seed,
        target_modules=plain(model.target_modules),
        exclude_modules=plain(model.exclude_modules),
    )
