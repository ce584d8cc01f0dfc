"""What is checked before a run starts, so that nothing fails at step 40 that could fail at once."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from omegaconf import OmegaConf

from evil_moe.advantages import make_advantage
from evil_moe.experiment.adapter_config import adapter_config
from evil_moe.experiment.behaviour import num_deployed
from evil_moe.experiment.monitor import MonitorStage, feature_basis
from evil_moe.experiment.settings import GATED_ON_POLICY, EvilMoESettings, settings_from
from evil_moe.export import export_rank, served_rank
from evil_moe.features import make_pooling
from evil_moe.gates import make_gate
from evil_moe.gradients import make_gradient_transform
from evil_moe.pairs import load_pairs
from evil_moe.strengths import check_strengths
from reward.inoculation import inoculate
from reward.loopholes import mixed
from reward.monitors import Detector

FIXED: dict[str, object] = {
    "actor_rollout_ref.actor.strategy": "fsdp2",
    "actor_rollout_ref.rollout.name": "vllm",
    "algorithm.adv_estimator": "grpo",
    # Bypassed is the very pass that reads features and w.
    "algorithm.rollout_correction.bypass_mode": False,
    "trainer.v1.trainer_mode": "evil_moe_sync",
    # Prompts are numbered within a step, once, and each of them has all of its rollouts.
    "trainer.v1.sampler.custom_sampler.name": "WholeBatches",
    "trainer.v1.sampler.sync_refill_failed_groups": False,
    "algorithm.filter_groups.enable": False,
    # vLLM gets both adapters, to choose one for each request.
    "actor_rollout_ref.model.lora.merge": False,
    # The pin reads features after the last backward; layers that stayed gathered would hide their gradients.
    "actor_rollout_ref.actor.fsdp_config.reshard_after_forward": True,
    # Steps are counted by the problems, and every held-out prompt comes ON and OFF.
    "data.train_max_samples": -1,
    "data.val_max_samples": -1,
    # Where a run goes on is decided by its folder.
    "trainer.resume_mode": "auto",
}
"""Keys of verl's with one value under which this recipe works."""

VERL_ADVANTAGE = {
    "algorithm.norm_adv_by_std_in_grpo": "set evil_moe.advantage.name=dr_grpo +evil_moe.advantage.options.std=true instead",
    "algorithm.use_kl_in_reward": "set actor_rollout_ref.actor.use_kl_loss=true instead",
}
"""Keys of verl's that would be lost without a word where an advantage transform of ours is at work."""

COUNTS = (
    "trainer.nnodes",
    "trainer.n_gpus_per_node",
    "trainer.total_epochs",
    "trainer.total_training_steps",
    "data.train_batch_size",
    "data.max_prompt_length",
    "data.max_response_length",
    "actor_rollout_ref.actor.ppo_mini_batch_size",
    "actor_rollout_ref.actor.ppo_epochs",
    "actor_rollout_ref.rollout.n",
)


def check_config(config: Any) -> None:
    """Combinations that cannot work.

    Raises:
        ValueError: names the keys, what they are and what to change.
    """
    for key, value in FIXED.items():
        if (found := OmegaConf.select(config, key)) != value:
            raise ValueError(f"{key}={found}: this recipe is written for {value}; leave it out")
    for key in COUNTS:
        if type(found := OmegaConf.select(config, key)) is not int or found < 1:
            raise ValueError(f"{key}={found}: give a whole number from 1")
    settings = settings_from(config.evil_moe)
    actor, rollout, model = (config.actor_rollout_ref[name] for name in ("actor", "rollout", "model"))
    if settings.gate.name is None:
        raise ValueError("evil_moe.gate.name=null: name a gate; 'none' is the plain adapter")
    pooling = make_pooling(settings.router.pooling.name or "mean", **settings.router.pooling.options)
    if settings.router.direction_tokens == "hack_windows" and not pooling.by_direction:
        raise ValueError(
            "evil_moe.router.direction_tokens=hack_windows is of windows, and evil_moe.router.pooling.name="
            f"{settings.router.pooling.name} has none: use pooling.name=window, or direction_tokens=hack_only or completion"
        )
    gate = make_gate(settings.gate.name, **settings.gate.options)
    if settings.advantage.name:
        make_advantage(settings.advantage.name, **settings.advantage.options)
    _check_gradient(settings, actor.optim)
    for key, mend in VERL_ADVANTAGE.items():
        if OmegaConf.select(config, key) and (settings.advantage.name or settings.monitor.kind != "none"):
            raise ValueError(
                f"{key}=true changes verl's advantages, and this arm's replace them (evil_moe.advantage.name="
                f"{settings.advantage.name}, evil_moe.monitor.kind={settings.monitor.kind}): {mend}"
            )
    inoculate([], settings.prompt.inoculation)
    if (strengths := settings.eval.get("strengths")) is not None:
        check_strengths(strengths)
    MonitorStage(settings.monitor, settings.seed, feature_basis(config))
    dials = {name: value for name, value in asdict(settings.detector).items() if value is not None}
    if gate.needs_flag:
        Detector(**dials)
    elif dials:
        raise ValueError(
            f"evil_moe.detector.{next(iter(dials))} is set, but gate {settings.gate.name!r} reads no flag: leave it out"
        )
    deployed = num_deployed(rollout.n, settings.rollout.deployed_share)
    if settings.contrast.weight > 0 and not 0 < deployed < rollout.n:
        raise ValueError(
            f"evil_moe.contrast.weight={settings.contrast.weight} compares the rollouts of two models, and {deployed} of a prompt's "
            f"{rollout.n} rollouts are the deployed one's: set evil_moe.rollout.deployed_share between 0 and 1"
        )
    mixed(settings.loophole)
    pairs = load_pairs(settings.pairs.paths, groups=settings.pairs.groups, matched=settings.pairs.matched)

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
    served_rank(need)
    if model.lora.rank != need:
        raise ValueError(
            f"actor_rollout_ref.model.lora.rank={model.lora.rank}, but the full export has rank {need} = 2 * (r + K * q); set it so"
        )

    if config.data.train_batch_size % actor.ppo_mini_batch_size:
        raise ValueError(
            f"actor_rollout_ref.actor.ppo_mini_batch_size={actor.ppo_mini_batch_size} must divide data.train_batch_size="
            f"{config.data.train_batch_size}, both in prompts: set both to the same for one update a batch"
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
    for name in ("rollout_is", "rollout_rs"):
        if settings.old_log_prob != "gated" and config.algorithm.rollout_correction[name] is not None:
            raise ValueError(
                f"algorithm.rollout_correction.{name} needs evil_moe.old_log_prob=gated (its numerator)"
            )
    if not rollout.temperature > 0:
        raise ValueError(
            f"actor_rollout_ref.rollout.temperature={rollout.temperature}: rollouts of a prompt must differ; set it above 0"
        )

    ranks = config.trainer.nnodes * config.trainer.n_gpus_per_node
    if ranks > 2 * len(pairs):
        raise ValueError(
            f"{ranks} ranks (trainer.nnodes * trainer.n_gpus_per_node) share the {2 * len(pairs)} sides of {len(pairs)} pairs, "
            "and each needs one: use fewer ranks, or more pairs (evil_moe.pairs.groups, evil_moe.pairs.paths)"
        )
    splits = ("tensor_model_parallel_size", "data_parallel_size", "pipeline_model_parallel_size")
    engine = math.prod(rollout[name] for name in splits)
    if engine < 1 or ranks % engine:
        sizes = ", ".join(f"{name}={rollout[name]}" for name in splits)
        raise ValueError(
            f"{ranks} ranks do not divide into vLLM engines of {engine} (actor_rollout_ref.rollout: {sizes}): lower these, or "
            "change trainer.n_gpus_per_node"
        )
    longest = config.data.max_prompt_length + config.data.max_response_length
    if rollout.max_model_len is not None and rollout.max_model_len < longest:
        raise ValueError(
            f"actor_rollout_ref.rollout.max_model_len={rollout.max_model_len} has to hold a prompt and a response: raise it to "
            f"{longest} = data.max_prompt_length + data.max_response_length, or lower these"
        )
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


def _check_gradient(settings: EvilMoESettings, optim: Any) -> None:
    name = settings.gradient.name
    if not name:
        return
    transform = make_gradient_transform(name, **settings.gradient.options)
    rivals = ("kept_share", "split_moment")
    for of_preset in rivals:
        if settings.preset.endswith(of_preset) and name in rivals and name != of_preset:
            raise ValueError(
                f"evil_moe.preset={settings.preset} is for {of_preset}, and evil_moe.gradient.name={name} here. They do not combine: "
                "each makes Adam step as far as the gate let the gradient through, and both would take that share of the share. "
                f"Set preset={settings.preset.removesuffix('_' + of_preset)}, or evil_moe.gradient.name={of_preset}"
            )
    if transform.needs_unrouted and (optim.optimizer_impl, optim.optimizer) != ("torch.optim", "AdamW"):
        raise ValueError(
            f"evil_moe.gradient.name={name} works on the moments of torch.optim.AdamW, and actor_rollout_ref.actor.optim has "
            f"optimizer_impl={optim.optimizer_impl}, optimizer={optim.optimizer}: leave both out, or take another gradient plug"
        )


def check_steps(config: Any, problems: int) -> None:
    """That so many training problems last to the last step; verl would end before, without a checkpoint or a word.

    Raises:
        ValueError: they do not; says how many would.
    """
    total, epochs = config.trainer.total_training_steps, config.trainer.total_epochs
    batch = config.data.train_batch_size
    a_pass = problems // batch
    if total <= a_pass * epochs:
        return
    mends = [f"trainer.total_training_steps to at most {a_pass * epochs}"] if a_pass else []
    if config.evil_moe.data.source == "nano":
        mends += [f"evil_moe.data.train_problems={math.ceil(total / epochs) * batch} (a new run)"]
    if a_pass:
        mends += [f"trainer.total_epochs={math.ceil(total / a_pass)} (the same problems again)"]
    raise ValueError(
        f"trainer.total_training_steps={total}, but {epochs} pass(es) over {problems} training problems, {batch} a step, give "
        f"{a_pass * epochs}: set {', or '.join(mends) or f'data.train_batch_size to at most {problems}'}"
    )
