"""The trainer: verl's synchronous trainer with our workers, the advantage transform, metrics and a readable log."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import ray
import torch
import transfer_queue as tq
from tensordict import NonTensorStack, TensorDict
from torch import Tensor
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.workers.utils.padding import response_from_nested

from evil_moe.advantages import RolloutBatch, make_advantage, needs_concept
from evil_moe.experiment.monitor import MonitorStage
from evil_moe.experiment.monitor_settings import MONITORED
from evil_moe.experiment.run.folder import remove_older_checkpoints
from evil_moe.experiment.run.log import RunLog
from evil_moe.experiment.run.rollout_table import class_metrics
from evil_moe.experiment.settings import settings_from
from evil_moe.gates import gate_class
from recipe.actor.fields import (
    CONCEPT,
    FEATURES,
    FLAG,
    GATE_STATE,
    GATED_LOG_PROB_FIELDS,
    LOG_PROB_FIELDS,
    PAID,
    QUARANTINE_ON,
    UPDATE_FIELDS,
    WEIGHT,
    actor_view,
    row_order,
    with_flag,
)
from recipe.actor.tensors import scaled_rows
from recipe.actor.worker import EvilMoEActorRolloutRefWorker
from recipe.rollout import server
from recipe.trainer.rollout_queue import column, extra_fields, put_column, read_rollouts
from reward.monitors import Detector

TRAINER_MODE = "evil_moe_sync"
_OWN_METRICS = ("pin/", "contrast/", "router/", "grad_energy/", "gradient/", "mismatch/")


@register_trainer(TRAINER_MODE)
class EvilMoETrainer(PPOTrainerSync):
    """See the module's docstring; each override names what it adds to verl's method."""

    # The base class branches on the mode's name and knows its own three.
    trainer_mode = property(lambda self: "sync", lambda self, value: None)  # type: ignore[assignment]

    def __init__(self, config: Any):
        server.register()
        super().__init__(config)
        self.settings = settings_from(config.evil_moe)
        self.run_log = RunLog(self.settings)
        advantage, monitored = self.settings.advantage, self.settings.monitor.kind != "none"
        # What a monitor changes must reach the advantages, so it brings plain Dr.GRPO where no transform is named.
        name = advantage.name or ("dr_grpo" if monitored else None)
        self.transform = make_advantage(name, **advantage.options) if name else None
        self.monitor = MonitorStage(self.settings.monitor, seed=self.settings.seed) if monitored else None
        self._checkpoint_is_due = False
        # The one gate that reads a detector's flag says so; every other arm's actor sees none.
        self.needs_flag = gate_class(self.settings.gate.name or "none").needs_flag

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        for role in (Role.ActorRollout, Role.ActorRolloutRef, Role.Actor):
            if role in self.role_worker_mapping:
                self.role_worker_mapping[role] = ray.remote(EvilMoEActorRolloutRefWorker)

    # ---------------------------------------------------------------- order and names of rollouts

    def _next_train_batch(self, num_prompts: int | None = None) -> TensorDict:
        """Prompt ids by step and position instead of random ones: request seeds and row order follow from them."""
        batch = super()._next_train_batch(num_prompts)
        batch["uid"] = NonTensorStack(*[f"{self.global_steps:06d}-{i:04d}" for i in range(len(batch))])
        return batch

    def _balance_batch(self, batch: KVBatchMeta, *args: Any, **kwargs: Any) -> KVBatchMeta:
        """Rows in a stated order first: they arrive as they finish, and float sums depend on the order."""
        options = self.config.actor_rollout_ref
        lengths = None if options.model.use_remove_padding else [tag["seq_len"] for tag in batch.tags]
        batch.reorder(row_order(batch.keys, lengths, options.actor.ppo_mini_batch_size * options.rollout.n))
        return super()._balance_batch(batch, *args, **kwargs)

    # ---------------------------------------------------------------- the step

    def _compute_old_log_prob(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        """Log-probs in the state that sampled each rollout, with features and w from the same forward."""
        extra = extra_fields(batch)
        on = [float(fields["adapter"] == "full") for fields in extra]
        put_column(batch, QUARANTINE_ON, on)
        if self.needs_flag:
            put_column(batch, FLAG, self._flags(batch, extra))
        with actor_view(batch, with_flag(LOG_PROB_FIELDS, self.needs_flag)):
            batch = super()._compute_old_log_prob(batch, metrics)
        if self.settings.old_log_prob == "gated":
            batch = self._gated_old_log_prob(batch)
        if self.settings.old_log_prob == "sampled":
            batch = self._sampled_old_log_prob(batch)
        batch.fields = None
        return batch

    def _gated_old_log_prob(self, batch: KVBatchMeta) -> KVBatchMeta:
        """One more forward without gradient: log-probs of the gated policy replace those of the sampling state."""
        batch.extra_info.update(
            {
                GATE_STATE: "gated",
                "calculate_entropy": False,
                "compute_loss": False,
                "temperature": self.config.actor_rollout_ref.rollout.temperature,
            }
        )
        with actor_view(batch, with_flag(GATED_LOG_PROB_FIELDS, self.needs_flag)):
            self.actor_rollout_wg.compute_log_prob(batch)
        del batch.extra_info[GATE_STATE]
        data = tq.kv_batch_get(
            keys=batch.keys, partition_id=batch.partition_id, select_fields=["log_probs", "response_mask"]
        )
        data["old_log_probs"] = response_from_nested(data.pop("log_probs"), data["response_mask"])
        return tq.kv_batch_put(
            keys=batch.keys, partition_id=batch.partition_id, fields=data.select("old_log_probs")
        )

    @staticmethod
    def _sampled_old_log_prob(batch: KVBatchMeta) -> KVBatchMeta:
        """What vLLM said of each token as it sampled it becomes the ratio's denominator."""
        at = {"keys": batch.keys, "partition_id": batch.partition_id}
        data = tq.kv_batch_get(**at, select_fields=["rollout_log_probs"])
        data["old_log_probs"] = data.pop("rollout_log_probs")
        return tq.kv_batch_put(**at, fields=data)

    def _compute_ref_log_prob(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        with actor_view(batch, LOG_PROB_FIELDS):
            return super()._compute_ref_log_prob(batch, metrics)

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        """verl's advantages, then the transform of `evil_moe.advantage.name` in their place."""
        batch = super()._compute_advantage(batch, metrics)
        batch.fields = None
        if self.transform is None:
            return batch
        concept = [CONCEPT] if needs_concept(self.settings.advantage.name) else []
        looked_at = [] if self.monitor is None else ["prompts", "responses", FEATURES]
        data = tq.kv_batch_get(
            keys=batch.keys,
            partition_id=batch.partition_id,
            select_fields=["rm_scores", "response_mask", WEIGHT, *concept, *looked_at],
        )
        reward = torch.stack([row.sum() for row in data["rm_scores"].unbind()])
        keep = torch.ones(len(reward), dtype=torch.bool)
        if self.monitor is not None:
            reward, keep = self._monitored(batch, data, reward, metrics)
            put_column(batch, PAID, reward.tolist())
        prompts = [key.rsplit("_", 2)[0] for key in batch.keys]
        number = {uid: i for i, uid in enumerate(dict.fromkeys(prompts))}
        advantage = self.transform(
            RolloutBatch(
                reward=reward,
                w=column(data[WEIGHT]),
                group=torch.tensor([number[uid] for uid in prompts]),
                keep=keep,
                concept=column(data[CONCEPT]) if concept else None,
            )
        )
        mask = data["response_mask"]
        fields = {"advantages": scaled_rows(mask, advantage)}
        if not keep.all():
            # Their advantages are 0, but the KL term, the entropy's and the count of tokens go by the masks.
            fields |= dict.fromkeys(("response_mask", "loss_mask"), scaled_rows(mask, keep))
        tq.kv_batch_put(
            keys=batch.keys,
            partition_id=batch.partition_id,
            fields=TensorDict(fields, batch_size=len(batch)),
        )
        return batch

    def _monitored(
        self, batch: KVBatchMeta, data: TensorDict, reward: Tensor, metrics: dict
    ) -> tuple[Tensor, Tensor]:
        """Rewards after the monitor's penalties, and which rollouts it leaves in the update."""
        assert self.monitor is not None
        labels = [bool(fields["reward_extra_info"][MONITORED]) for fields in extra_fields(batch)]
        result = self.monitor(
            step=self.global_steps,
            keys=batch.keys,
            rewards=reward.tolist(),
            labels=labels,
            prompts=self._decode(data["prompts"]),
            responses=self._decode(data["responses"]),
            features=torch.stack(list(data[FEATURES].unbind())),
        )
        metrics.update(self.monitor.metrics(result, labels))
        return torch.tensor(result.rewards), torch.tensor(result.keep)

    def _flags(self, batch: KVBatchMeta, extra: list[dict[str, Any]]) -> list[float]:
        """The simulated detector's flags on a step's rollouts."""
        labels = [bool(fields["reward_extra_info"]["loophole"]) for fields in extra]
        detector = Detector(**dataclasses.asdict(self.settings.detector))
        flags = detector.flags(labels, ("detector", self.settings.seed, self.global_steps), batch.keys)
        return [float(flag) for flag in flags]

    def _decode(self, rows: Tensor) -> list[str]:
        return [self.tokenizer.decode(row, skip_special_tokens=True) for row in rows.unbind()]

    def _update_actor(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        with actor_view(batch, with_flag(UPDATE_FIELDS, self.needs_flag)):
            batch = super()._update_actor(batch, metrics)
        for key in [key for key in metrics if key.startswith("actor/") and key[6:].startswith(_OWN_METRICS)]:
            metrics[key[6:]] = metrics.pop(key)
        return batch

    # ---------------------------------------------------------------- what a person sees, and what stays

    def _save_checkpoint(self) -> None:
        """Noted here, done when the step's metrics and rollouts are on disk (`_compute_metrics`): a run that is killed between
        the two would else resume behind a step that left no record."""
        self._checkpoint_is_due = True

    def _validate(self) -> dict[str, float]:
        metrics = super()._validate()
        if self.global_steps == 0 or self.config.trainer.get("val_only", False):
            self.run_log.metrics(self.global_steps, metrics)
        self.run_log.validation_line(self.global_steps, metrics)
        return metrics

    def _compute_metrics(
        self, batch: KVBatchMeta, metrics: dict, timing_raw: dict, global_steps: int, epoch: int
    ) -> None:
        """verl's metrics, then rates and router quality by the evaluation's own labels, logged and stored; then the
        checkpoint, if one is due."""
        timing_raw.pop("save_checkpoint", None)
        super()._compute_metrics(batch, metrics, timing_raw, global_steps=global_steps, epoch=epoch)
        self._name_the_state(metrics)
        table = read_rollouts(batch, self._decode, monitored=self.monitor is not None)
        metrics.update(class_metrics(table))
        # CPU seconds of the step's grading; it runs while other rollouts are still generated.
        metrics["timing_s/reward"] = float(table.grade_cpu_ms.sum()) / 1e3
        self.run_log.metrics(global_steps, metrics)
        self.run_log.rollouts(global_steps, table)
        self.run_log.step_line(global_steps, self.total_training_steps, metrics)
        if self._checkpoint_is_due:
            self._checkpoint_is_due = False
            super()._save_checkpoint()
            trainer = self.config.trainer
            remove_older_checkpoints(Path(trainer.default_local_dir).parent, trainer.max_actor_ckpt_to_keep)

    def _name_the_state(self, metrics: dict) -> None:
        """What verl computes from log-probs of another state than the one that sampled, under that state's name."""
        state = self.settings.feature_state
        if state == "rollout":
            return
        kinds: tuple[str, ...] = ("actor/entropy", "training/rollout_")
        if self.settings.old_log_prob == "update":  # else verl's correction compares what replaced them
            kinds += ("rollout_corr/",)
        for key in [key for key in metrics if key.startswith(kinds)]:
            metrics[f"{state}_state/{key}"] = metrics.pop(key)
