"""What cannot work is refused before a run starts, with the key, its value and what to change."""

from __future__ import annotations

import pytest

from evil_moe.experiment.config import compose
from evil_moe.experiment.config_checks import check_config


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["arm=refresh", "evil_moe.router.threshold=anchored"], "threshold=anchored"),
        (["arm=refresh", "evil_moe.router.threshold=pairs"], "threshold=pairs"),
        (["arm=refresh", "evil_moe.router.direction=haar"], "direction=haar"),
        (["arm=refresh", "evil_moe.feature_state=base"], r"refresh_every=5 .* never change"),
        (["algorithm.norm_adv_by_std_in_grpo=true"], r"norm_adv.*options\.std=true instead"),
        (["arm=monitor_penalty", "algorithm.use_kl_in_reward=true"], r"use_kl_in_reward=true .*use_kl_loss"),
        (
            ["arm=project", "preset=nano_long_kept_share"],
            r"'rank_deployed'.* magnitude, denoise.*~evil_moe\.gradient",
        ),
        (
            ["arm=split_moment", "preset=nano_long_kept_share"],
            r"do not combine: .*share of the share.*preset=nano_long, or evil_moe\.gradient\.name=kept_share",
        ),
        (
            ["arm=anchored", "preset=nano_long_split_moment"],
            r"gradient\.name=kept_share here\. .*or evil_moe\.gradient\.name=split_moment",
        ),
        (
            ["arm=split_moment", "actor_rollout_ref.actor.optim.optimizer=SGD"],
            r"split_moment works on .*AdamW.*optimizer=SGD: leave both out",
        ),
        (["algorithm.filter_groups.enable=true"], r"filter_groups\.enable=True: .* written for False"),
        (["trainer.v1.sampler.sync_refill_failed_groups=true"], r"refill_failed_groups=True: .* for False"),
        (["trainer.v1.sampler.custom_sampler.name=Mine"], r"custom_sampler\.name=Mine: .* WholeBatches"),
        (["actor_rollout_ref.model.lora.merge=true"], r"lora\.merge=True: .* written for False"),
        (["algorithm.rollout_correction.rollout_rs=seq_mean_k1"], r"rollout_rs needs .*old_log_prob=gated"),
        (["actor_rollout_ref.rollout.temperature=0"], r"temperature=0.*above 0"),
        (
            ["actor_rollout_ref.actor.fsdp_config.reshard_after_forward=false"],
            r"reshard_after_forward=False: .* True",
        ),
        (["evil_moe.router.gain=0"], r"router\.gain=0.*above 0"),
        (["evil_moe.router.lr=-1"], r"router\.lr=-1.*above 0"),
        (["evil_moe.reward.cpu_s=-1"], r"reward\.cpu_s=-1.*above 0"),
        (["seed=-1"], r"seed=-1.*from 0"),
        (["arm=anchored", "evil_moe.pairs.matched=false"], r"set evil_moe\.pairs\.matched=true"),
        (["actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=33"], r"ppo_micro_batch_size_per_gpu=33.*80"),
        (
            ["actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=7"],
            r"log_prob.*=7 must divide the 80",
        ),
        (["actor_rollout_ref.model.lora.rank=16"], r"lora\.rank=16.*has rank 32"),
        (["evil_moe.adapter.quarantine_rank=16"], r"lora\.rank=32.*has rank 48"),
        (["evil_moe.adapter.num_quarantine=3"], r"r=8 does not divide into num_quarantine=3"),
        (["evil_moe.detector.true_positive_rate=1"], r"detector\.true_positive_rate.*reads no flag"),
        (["evil_moe.gradient.name=clip"], r"gradient\.name='clip'.*projection"),
        (["evil_moe.advantage.name=gae"], r"advantage\.name='gae'.*router_weighted"),
        (["evil_moe.eval.strengths=[0,2]"], r"strength 2: give a number from 0"),
        (["evil_moe.prompt.inoculation=vaccine"], r"vaccine.*pass_test"),
        (["arm=label", "evil_moe.detector.precision=0.5"], r"a detector has one dial"),
        (["actor_rollout_ref.model.lora_rank=0"], "lora_rank=0"),
        (["actor_rollout_ref.actor.ppo_mini_batch_size=5"], "2 updates per batch.*old_log_prob=gated"),
        (["actor_rollout_ref.actor.policy_loss.loss_mode=vanilla"], "gated_on_policy"),
        (["evil_moe.old_log_prob=gated"], "'gated' and 'sampled' any other"),
        (["trainer.n_gpus_per_node=3"], "80 rollouts.*3 ranks"),
        (["actor_rollout_ref.actor.strategy=fsdp"], "strategy=fsdp"),
        (["actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size=2"], "ulysses"),
        (["actor_rollout_ref.model.fused_kernel_options.impl_backend=triton"], "impl_backend"),
        (["evil_moe.gate.name=nope"], r"gate\.name='nope'.*absorb"),
        (["evil_moe.gate.options.hard_threshold=2.5"], "hard_threshold=2.5"),
        (["evil_moe.pairs.groups=[overriden_evaluation]"], "overriden_evaluation.*overwritten_evaluation"),
        (["evil_moe.loophole=run_tests+nope"], r"'nope'; choose one of"),
        (["evil_moe.feature_state=base", "evil_moe.router.feature=gradient"], "choose another state"),
        (["evil_moe.router.learn=false"], r"pin\.weight > 0"),
        (["arm=frozen", "evil_moe.contrast.weight=1"], r"contrast\.weight > 0 .*router\.learn=false"),
        (["evil_moe.contrast.weight=-1"], r"contrast\.weight=-1"),
        (["arm=contrast", "evil_moe.rollout.deployed_share=0"], r"contrast.*0 of a prompt's 8 rollouts"),
        (["arm=contrast", "evil_moe.rollout.deployed_share=1"], r"contrast.*8 of a prompt's 8 rollouts"),
        (["trainer.n_gpus_per_node=0"], r"n_gpus_per_node=0: give a whole number from 1"),
        (["trainer.total_training_steps=null"], r"total_training_steps=None: give a whole number"),
        (
            ["actor_rollout_ref.rollout.tensor_model_parallel_size=2"],
            r"1 ranks .* engines of 2 .*lower these",
        ),
        (["trainer.n_gpus_per_node=80"], r"80 ranks .* share the \d+ sides .*fewer ranks"),
        (["actor_rollout_ref.actor.ppo_mini_batch_size=6"], r"ppo_mini_batch_size=6 must divide .*=10"),
        (["actor_rollout_ref.actor.ppo_mini_batch_size=20"], r"ppo_mini_batch_size=20 must divide .*=10"),
        (["actor_rollout_ref.rollout.max_model_len=239"], r"max_model_len=239 .* raise it to 240"),
        (["algorithm.rollout_correction.bypass_mode=true"], r"bypass_mode=True: .* written for False"),
        (["trainer.resume_mode=disable"], r"resume_mode=disable: .* written for auto"),
        (["trainer.v1.trainer_mode=sync"], r"trainer_mode=sync: .* written for evil_moe_sync"),
        (["actor_rollout_ref.rollout.name=sglang"], r"rollout\.name=sglang: .* written for vllm"),
        (["algorithm.adv_estimator=gae"], r"adv_estimator=gae: .* written for grpo"),
    ],
)
def test_checks_refuse(overrides: list[str], message: str):
    with pytest.raises(ValueError, match=message):
        check_config(compose(overrides))


def test_the_mends_that_the_errors_name_work(monkeypatch: pytest.MonkeyPatch):
    """Of options that a preset sets for its own plug, of verl's normalisation, and of a judge beside other arms."""
    check_config(
        compose(["arm=project", "preset=nano_long_kept_share", "~evil_moe.gradient.options.rank_deployed"])
    )
    check_config(
        compose(["arm=anchored", "preset=nano_long_split_moment", "evil_moe.gradient.name=split_moment"])
    )
    check_config(
        compose(["arm=none", "evil_moe.advantage.name=dr_grpo", "+evil_moe.advantage.options.std=true"])
    )
    check_config(compose(["arm=none", "algorithm.norm_adv_by_std_in_grpo=true"]))
    monkeypatch.setenv("EVIL_MOE_JUDGE_URL", "http://localhost:1/v1")
    monkeypatch.setenv("EVIL_MOE_JUDGE_MODEL", "judge")
    for arm in ("judge_penalty", "judge_screening", "monitor_penalty", "none"):
        check_config(compose([f"arm={arm}"]))
