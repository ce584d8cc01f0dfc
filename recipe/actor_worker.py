"""The actor: verl's workers with our engine behind them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch.distributed as dist
from verl.utils.device import get_device_name
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker

from recipe.engine import MODEL_TYPE


class EvilMoETrainingWorker(TrainingWorker):
    """A training worker on the `lora2r_lm` engine."""

    def __init__(self, config: Any):
        if get_device_name() == "cpu" and not dist.is_initialized():
            # verl would ask for "cpu:gloo,cpu:gloo", one entry per device kind, which torch rejects.
            dist.init_process_group("gloo")
        super().__init__(dataclasses.replace(config, model_type=MODEL_TYPE))


class EvilMoEActorRolloutRefWorker(ActorRolloutRefWorker):
    """verl's hybrid worker around `EvilMoETrainingWorker`; the reference policy is the actor without adapter."""

    actor_worker_cls = EvilMoETrainingWorker
