"""What is checked before a run starts, so that nothing fails at step 40 that could fail at once."""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict
from typing import Any

from evil_moe.advantages import make_advantage
from evil_moe.export import export_rank
from evil_moe.gates import make_gate
from evil_moe.gradients import make_gradient_transform
from evil_moe.pairs import load_pairs
from recipe.adapter_config import adapter_config
from recipe.monitor import MonitorStage, feature_basis
from recipe.settings import GATED_ON_POLICY, settings_from
from reward.inoculation import inoculate
from reward.loopholes import mixed
from reward.monitors import Detector

VERL_VERSION = "0.9.1"
"""The extension points under recipe/ were written against this version; another needs them looked at again."""


def check_verl() -> None:
    """Raises RuntimeError: verl is another version than the recipe was written for."""
    found = importlib.metadata.version("verl")
    if found != VERL_VERSION:
        raise RuntimeError(
            f"verl {found} is installed, the recipe is written for {VERL_VERSION}: pip install verl=={VERL_VERSION}"
        )


def check_platform(device: str) -> None:
    """That verl runs on the configured device in this process; verl hides a plugin that fails to load.

    Raises:
        RuntimeError: it does not.
    """
    from verl.utils.device import get_device_name

    if get_device_name() != device:
        raise RuntimeError(
            f"trainer.device={device} but verl runs on {get_device_name()}: for cpu, install this project (its entry point "
            "'verl.plugins' registers the CPU platform) and set VERL_PLATFORM=cpu; for cuda, check nvidia-smi"
        )


def check_config(config: Any) -> None:
    """Combinations that cannot work.

    Raises:
        ValueError: names the keys, what they are and what to change.
    """
    settings = settings_from(config.evil_moe)
    actor, rollout, model = (config.actor_rollout_ref[name] for name in ("actor", "rollout", "model"))
    if settings.gate.name is None:
        raise ValueError("evil_moe.gate.name=null: name a gate; 'none' is the plain adapter")
    gate = make_gate(settings.gate.name, **settings.gate.options)
    if settings.advantage.name:
        make_advantage(settings.advantage.name, **settings.advantage.options)
    if settings.gradient.name:
        make_gradient_transform(settings.gradient.name, **settings.gradient.options)
    inoculate([], settings.prompt.inoculation)
    MonitorStage(settings.monitor, settings.seed, feature_basis(config))
    dials = {name: value for name, value in asdict(settings.detector).items() if value is not None}
    if gate.needs_flag:
        Detector(**dials)
    elif dials:
        raise ValueError(
            f"evil_moe.detector.{next(iter(dials))} is set, but gate {settings.gate.name!r} reads no flag: leave it out"
        )
    mixed(settings.loophole)
    load_pairs(settings.pairs.paths, groups=settings.pairs.groups, matched=settings.pairs.matched)

    if actor.strategy != "fsdp2":
        raise ValueError(
            f"actor_rollout_ref.actor.strategy={actor.strategy}: the engine is written for fsdp2"
        )
    if model.lora_rank < 1:
        raise ValueError(
            f"actor_rollout_ref.model.lora_rank={model.lora_rank}: the method is an adapter, give it a rank"
        )
    if actor.fsdp_config.ulysses_sequence_parallel_size > 1:
        raise ValueError(
            "ulysses_sequence_parallel_size > 1 splits a rollout over ranks; features and gate need it whole"
        )
    if (
        model.use_fused_kernels
        and (backend := (model.fused_kernel_options or {}).get("impl_backend")) != "torch"
    ):
        raise ValueError(
            f"fused_kernel_options.impl_backend={backend} has not been tried with the gated adapter; set torch, or "
            "use_fused_kernels=false"
        )

    need = export_rank(adapter_config(model, settings.adapter), "full")
    if model.lora.rank != need:
        raise ValueError(
            f"actor_rollout_ref.model.lora.rank={model.lora.rank}, but the full export has rank {need} = 2 * (r + K * q); set it so"
        )

    on_policy = settings.old_log_prob == "update"
    updates = (config.data.train_batch_size // actor.ppo_mini_batch_size) * actor.ppo_epochs
    if on_policy and updates != 1:
        raise ValueError(
            f"{updates} updates per batch need the gated old log-probs: set evil_moe.old_log_prob=gated and "
            "actor_rollout_ref.actor.policy_loss.loss_mode=vanilla (one more forward a step)"
        )
    if on_policy != (actor.policy_loss.loss_mode == GATED_ON_POLICY):
        raise ValueError(
            f"evil_moe.old_log_prob={settings.old_log_prob} does not go with actor.policy_loss.loss_mode="
            f"{actor.policy_loss.loss_mode}: 'update' needs {GATED_ON_POLICY}, 'gated' and 'sampled' any other"
        )
    if settings.old_log_prob != "gated" and config.algorithm.rollout_correction.rollout_is is not None:
        raise ValueError(
            "algorithm.rollout_correction.rollout_is needs evil_moe.old_log_prob=gated (its numerator)"
        )

    ranks = config.trainer.nnodes * config.trainer.n_gpus_per_node
    rollouts = config.data.train_batch_size * rollout.n
    if rollouts % ranks:
        raise ValueError(
            f"{rollouts} rollouts a step do not divide over {ranks} ranks: change trainer.n_gpus_per_node or rollout.n"
        )
    if not actor.use_dynamic_bsz:
        per_rank = actor.ppo_mini_batch_size * rollout.n // ranks
        for name, size in (
            ("actor.ppo_micro_batch_size_per_gpu", actor.ppo_micro_batch_size_per_gpu),
            ("rollout.log_prob_micro_batch_size_per_gpu", rollout.log_prob_micro_batch_size_per_gpu),
        ):
            if not size or per_rank % size:
                raise ValueError(
                    f"actor_rollout_ref.{name}={size} must divide the {per_rank} rollouts of a rank's mini-batch"
                )
