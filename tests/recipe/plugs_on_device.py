"""Every plug on a device that is not the host, without a GPU: the real engine among `host_tensors`.

As many engines as the longest registry has plugs, engine i with plug i of every registry, so that a new plug is among
them by itself. Each is set up, reads old log-probs, updates, steps, takes its direction anew where it is told to and hands
out its weights, its batches coming from the host as the trainer's do.
"""

from __future__ import annotations

import inspect
import tempfile
import traceback
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPActorConfig
from verl.workers.config.actor import PolicyLossConfig
from verl.workers.engine.base import EngineRegistry
from verl.workers.utils.losses import ppo_loss

from evil_moe.adapter.init import INITS
from evil_moe.advantages import _TRANSFORMS as ADVANTAGES
from evil_moe.advantages import RolloutBatch, make_advantage
from evil_moe.experiment.settings import GATED_ON_POLICY
from evil_moe.gates import GATES, gate_class
from evil_moe.gradients import _TRANSFORMS as GRADIENTS
from recipe.actor.engine import Lora2rEngine
from recipe.actor.tensors import dense
from tests.recipe.engine_on_ranks import NUM_ROLLOUTS, build_engine, make_batch
from tests.recipe.host_tensors import DeviceSlip, HostTensor, on_device

MODEL_TYPE = "lora2r_lm_on_device"
# What has no registry of its own.
FEATURES = ("activation", "gradient")
STATES = ("base", "rollout", "full", "deployed")
THRESHOLDS = ("anchored", "follow", "base", "pairs")


@EngineRegistry.register(model_type=MODEL_TYPE, backend=["fsdp2"], device=["cpu"])
class OnDeviceEngine(Lora2rEngine):
    """Behind verl's build, which puts the module on the device, all that is made is the host's until `modes` is closed."""

    def initialize(self) -> None:
        self.modes = ExitStack()
        try:
            super().initialize()
        except BaseException:
            self.modes.close()
            raise

    def _build_model_optimizer(self) -> None:
        super()._build_model_optimizer()
        self.modes.enter_context(on_device())


def plugs_of(number: int, base: dict[str, Any]) -> dict[str, Any]:
    """Settings with plug `number` of every registry, counted round."""
    pick = lambda names: list(names)[number % len(names)]  # noqa: E731
    settings = {name: dict(part) if isinstance(part, dict) else part for name, part in base.items()}
    blocks = 2 if number % 2 else 1
    settings["gate"] = {"name": pick(GATES), "options": {}}
    if settings["gate"]["name"] == "router":
        settings["gate"]["options"] = {"assignment": "expert_choice", "balance": 0.1, "z_loss": 0.1}
    gradient, threshold = pick(GRADIENTS), pick(THRESHOLDS)
    takes = inspect.signature(GRADIENTS[gradient]).parameters
    options = {"rank_deployed": 4, "denoise": 2}
    settings["gradient"] = {"name": gradient, "options": {k: v for k, v in options.items() if k in takes}}
    settings["advantage"] = {"name": pick(ADVANTAGES), "options": {}}
    settings["adapter"] |= {
        "init": pick(INITS), "num_quarantine": blocks, "quarantine_rank": 4 // blocks, "quarantine_steps": 1,
    }  # fmt: skip
    settings["router"] |= {
        "feature": pick(FEATURES), "threshold": threshold, "refresh_every": int(threshold == "base"),
        "direction": "haar" if threshold == "pairs" else "seeded",
    }  # fmt: skip
    settings["feature_state"] = pick(STATES)
    settings["contrast"] = {"weight": 0.5}
    settings["pin"] |= {"weight": 1.0, "matched": bool(number % 2)}
    settings["rollout"]["gate_deployed"] = bool(number % 2)
    return settings


def update_batch(form: str, **more: Any) -> TensorDict:
    """A batch of the host with all that the trainer adds to it for the update."""
    batch = make_batch(slice(None), form)
    for i, name in enumerate(("rollout_log_probs", "old_log_probs", "ref_log_prob")):
        rows = [torch.full((len(row),), -3.0 - 0.1 * i) for row in batch["responses"].unbind()]
        batch[name] = torch.nested.as_nested_tensor(rows, layout=torch.jagged)
    for name, value in more.items():
        batch[name] = value
    tu.assign_non_tensor(batch, global_batch_size=NUM_ROLLOUTS)
    assert all(isinstance(_values(x), HostTensor) for x in batch.values() if isinstance(x, torch.Tensor))
    return batch


def _values(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.values() if tensor.is_nested else tensor


@cache
def one_layer(model_path: str) -> str:
    """A policy of one layer with the tokenizer of another: what is done on each layer is done on each alike."""
    folder, config = tempfile.mkdtemp(dir=Path(model_path).parent), AutoConfig.from_pretrained(model_path)
    config.num_hidden_layers, config.layer_types = 1, config.layer_types[:1]
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_path).save_pretrained(folder)
    return folder


def run_engine(number: int, model_path: str, base: dict[str, Any]) -> dict[str, Any]:
    settings = plugs_of(number, base)
    form = "gpu" if number == 1 else "fused"  # verl's fused head is the process's from then on
    engine = build_engine(one_layer(model_path), settings, form, tokens=400, model_type=MODEL_TYPE)
    assert isinstance(engine, OnDeviceEngine)
    loss = partial(
        ppo_loss,
        config=FSDPActorConfig(
            strategy="fsdp2", rollout_n=1, ppo_micro_batch_size_per_gpu=2, use_kl_loss=True,
            policy_loss=PolicyLossConfig(loss_mode=GATED_ON_POLICY), loss_agg_mode="seq-mean-token-sum-norm",
            loss_scale_factor=4,
        ),
    )  # fmt: skip
    with engine.modes:
        flags = {}
        if gate_class(settings["gate"]["name"]).needs_flag:
            flags["flag"] = (torch.arange(NUM_ROLLOUTS) % 3 == 0).float().unsqueeze(1)
        with engine.eval_mode():
            read = engine.infer_batch(update_batch(form, **flags), loss_function=None)["model_output"]
        features = dense(read["features"].cpu())
        with engine.train_mode():
            engine.optimizer_zero_grad()
            batch = update_batch(form, features=features, **flags)
            out = engine.forward_backward_batch(batch, loss, forward_only=False)
            norm = engine.optimizer_step()
            engine.lr_scheduler_step()
        if settings["router"]["refresh_every"]:
            with engine.eval_mode():  # takes the direction anew
                engine.infer_batch(update_batch(form, **flags), loss_function=None)
        weights, _ = engine.get_per_tensor_param(base_sync_done=True)
        exported = [(name, value) for name, value in weights]
    assert not any(isinstance(value, HostTensor) for _, value in exported)
    return {"norm": norm, "metrics": sorted(out["metrics"]), "exported": len(exported)}


def run_advantages() -> list[str]:
    """Advantages are the host's today; those of our own must do on a device as well."""
    made = []
    for name in ADVANTAGES:
        batch = RolloutBatch(
            reward=torch.arange(8.0), w=torch.rand(8), group=torch.arange(8) // 4, keep=torch.arange(8) > 0,
            concept=torch.rand(8),
        )  # fmt: skip
        with on_device():
            assert not isinstance(make_advantage(name)(batch), HostTensor)
        made.append(name)
    return made


def run_plugs(name: str, model_path: str, base: dict[str, Any]) -> dict[str, Any]:
    """The report of `device:advantages` or of engine `device:<number>`; a slip is reported with where it was made."""
    what = name.removeprefix("device:")
    try:
        return {"made": run_advantages()} if what == "advantages" else run_engine(int(what), model_path, base)
    except DeviceSlip as slip:
        stack = traceback.extract_tb(slip.__traceback__)
        ours = [f for f in stack if "/evil_moe/" in f.filename or "/recipe/" in f.filename]
        where = [f"{Path(f.filename).name}:{f.lineno} {f.line}" for f in ours if "/tests/" not in f.filename]
        return {"slip": f"{slip} at {where[-1:]}"}
