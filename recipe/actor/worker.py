"""The actor: verl's workers with our engine behind them."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import torch
import torch.distributed as dist
from verl.utils.device import get_device_name
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker
from verl.workers.rollout.base import _ROLLOUT_REGISTRY

from recipe.actor.engine import MODEL_TYPE

# By name: what it imports of vLLM, verl imports in this process when it builds the rollout.
assert ("vllm", "async") in _ROLLOUT_REGISTRY
_ROLLOUT_REGISTRY["vllm", "async"] = "recipe.rollout.weight_sync.EvilMoEServerAdapter"


class EvilMoETrainingWorker(TrainingWorker):
    """A training worker on the `lora2r_lm` engine."""

    def __init__(self, config: Any):
        if get_device_name() == "cpu" and not dist.is_initialized():
            # verl would ask for "cpu:gloo,cpu:gloo", one entry per device kind, which torch rejects.
            dist.init_process_group("gloo")
            # The workers' environment says one thread, right for the many small ones; the actor computes alone.
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // dist.get_world_size()))
        super().__init__(dataclasses.replace(config, model_type=MODEL_TYPE))


class EvilMoEActorRolloutRefWorker(ActorRolloutRefWorker):
    """verl's hybrid worker around `EvilMoETrainingWorker`; the reference policy is the actor without adapter."""

    actor_worker_cls = EvilMoETrainingWorker
