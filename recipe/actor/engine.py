"""The training engine: verl's FSDP2 engine around `evil_moe.step`.

verl owns forwards, backwards and the optimizer, and calls back at each; this file hands what it says of the rollouts to the method,
and what the method says of them to the model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id
from verl.utils.fsdp_utils import fsdp2_clip_grad_norm_
from verl.workers.config.optimizer import build_optimizer
from verl.workers.engine.base import EngineRegistry
from verl.workers.utils.padding import response_from_nested

import recipe.actor.policy_loss  # noqa: F401  # registers the loss in the worker's process
from evil_moe.build import install, parameter_groups
from evil_moe.constants import restore_constants_
from evil_moe.experiment.adapter_config import adapter_config
from evil_moe.experiment.settings import settings_from
from evil_moe.passes import Forward, ReadPass, Rollouts, UpdatePass
from evil_moe.ranks import GroupRanks
from evil_moe.step import MethodStep
from recipe.actor.engine_weights import AdapterWeightsEngine
from recipe.actor.fields import (
    CONCEPT,
    FEATURES,
    GATE_STATE,
    IN_STEP,
    SCORE,
    WEIGHT,
    per_rollout_fields,
    refuse_foreign_fields,
)
from recipe.actor.rollouts import mismatch_metrics, rollouts_of
from recipe.actor.tensors import sequence_layout

MODEL_TYPE = "lora2r_lm"


@EngineRegistry.register(model_type=MODEL_TYPE, backend=["fsdp2"], device=["cpu", "cuda"])
class Lora2rEngine(AdapterWeightsEngine):
    """See the module's docstring. `model_config.lora["evil_moe"]` holds the `evil_moe` node of the config."""

    step: MethodStep

    def __init__(self, model_config: Any, *args: Any, **kwargs: Any):
        # verl wrote our registry key into the config; its own code branches on the kind of model.
        model_config.model_type = "language_model"
        super().__init__(model_config, *args, **kwargs)
        self.settings = settings_from(model_config.lora["evil_moe"])
        self._pass: ReadPass | UpdatePass | None = None
        self._forward: Forward | None = None
        """Of the micro-batch that runs, if anything is read or gated."""

    # ---------------------------------------------------------------- build

    def _build_module(self) -> Any:
        module = super()._build_module()
        # verl casts the rotary frequencies with the weights; vLLM keeps them in float32.
        restore_constants_(module)
        return module

    def _build_lora_module(self, module: Any) -> PeftModel:
        module.enable_input_require_grads()
        model = get_peft_model(module, adapter_config(self.model_config, self.settings.adapter))
        install(model, self.settings.method)
        return model

    def _build_optimizer(self, module: PeftModel) -> torch.optim.Optimizer:
        config = self.optimizer_config
        return build_optimizer(parameter_groups(module, self.settings.router, config.lr), config)

    def initialize(self) -> None:
        super().initialize()
        ranks = GroupRanks(self.get_data_parallel_group(), get_device_id())
        tokens = self.engine_config.max_token_len_per_gpu
        self.step = MethodStep(self.module, self.settings.method, self.model_config.tokenizer, ranks, tokens)
        if not self.engine_config.forward_only:
            with self.eval_mode():
                self.step.start(self.optimizer)

    def load_checkpoint(self, local_path: str, *args: Any, **kwargs: Any) -> None:
        super().load_checkpoint(local_path, *args, **kwargs)
        self.step.pairs.forget()

    # ---------------------------------------------------------------- a step's rollouts

    def forward_backward_batch(
        self, data: TensorDict, loss_function: Callable[..., Any], forward_only: bool = False
    ) -> dict[str, Any]:
        refuse_foreign_fields(per_rollout_fields(data), self.step.gate.needs_flag)
        if self.step.tuner.lora2r_layers()[0].disable_adapters:
            return super().forward_backward_batch(data, loss_function, forward_only)
        default = "read" if forward_only else "gated"
        if tu.get_non_tensor_data(data=data, key=GATE_STATE, default=default) == "read":
            out = self._run(self.step.read_pass(), data, loss_function, forward_only)
            self._add_weights(out["model_output"], data)
            return out
        update = self.step.update_pass(self._rollouts(data))
        if update.in_step is not None:
            data = data.copy()  # the caller's stays as it is
            data[IN_STEP] = update.in_step.to(data.device or "cpu")
        out = self._run(update, data, loss_function, forward_only)
        if not forward_only:
            metrics = self.step.after_backward(update, lambda other: self._run(other, data, loss_function))
            out["metrics"].update({name: [value] for name, value in metrics.items()})
        return out

    def _run(
        self,
        over: ReadPass | UpdatePass,
        data: TensorDict,
        loss_function: Callable[..., Any],
        forward_only: bool = False,
    ) -> dict[str, Any]:
        self._pass = over
        try:
            return super().forward_backward_batch(data, loss_function, forward_only)
        finally:
            self._pass, self._forward = None, None
            self.step.tuner.forward_state.clear()

    def _rollouts(self, batch: TensorDict, **read: Tensor) -> Rollouts:
        return rollouts_of(batch, get_device_id(), needs_flag=self.step.gate.needs_flag, **read)

    def _add_weights(self, model_output: dict[str, Tensor], data: TensorDict) -> None:
        """Router scores and weights beside the features that were read."""
        steps = self.lr_scheduler.last_epoch  # counts optimizer steps, and is resumed
        seen = self.step.observe(self._rollouts(data, features=model_output[FEATURES]), steps)
        model_output[SCORE], model_output[WEIGHT] = seen.score.unsqueeze(1), seen.weight.unsqueeze(1)
        if seen.concept is not None:
            model_output[CONCEPT] = seen.concept.unsqueeze(1)

    def disable_adapter(self) -> Any:
        """Base model, for the KL reference; nothing is read or gated there."""
        return self.module.disable_adapter()

    # ---------------------------------------------------------------- a micro-batch

    def forward_step(
        self, micro_batch: TensorDict, loss_function: Any, forward_only: bool
    ) -> tuple[Tensor, dict]:
        if self._pass is None:
            return super().forward_step(micro_batch, loss_function, forward_only)
        micro_batch = micro_batch.to(get_device_id())  # verl moves a copy of its own
        with self._pass.forward(self._rollouts(micro_batch)) as self._forward:
            loss, output = super().forward_step(micro_batch, loss_function, forward_only)
        forward, self._forward = self._forward, None
        if not forward_only:
            output["metrics"].update(mismatch_metrics(output["model_output"], micro_batch))
            loss = loss + forward.penalty()
        return loss, output

    def prepare_model_inputs(self, micro_batch: TensorDict) -> tuple[dict, dict]:
        inputs, output_args = super().prepare_model_inputs(micro_batch)
        if self._forward is not None:
            # Set, not scoped: gradient checkpointing runs the layers again in the backward.
            layout = sequence_layout(micro_batch, inputs)
            self.step.tuner.forward_state.set(self._forward.weights, layout)
        return inputs, output_args

    def prepare_model_outputs(
        self, output: Any, output_args: dict, micro_batch: TensorDict, **kwargs: Any
    ) -> dict:
        model_output = super().prepare_model_outputs(output, output_args, micro_batch=micro_batch, **kwargs)
        if self._forward is not None and self._forward.features is not None:
            mask, log_probs = micro_batch["response_mask"], model_output["log_probs"]
            model_output[FEATURES] = self._forward.features(
                lambda: response_from_nested(log_probs, mask).values().sum()
            )
        return model_output

    # ---------------------------------------------------------------- the optimizer

    def optimizer_step(self) -> float:
        return self.step.optimize(self.optimizer, self.optimizer_config.clip_grad, fsdp2_clip_grad_norm_)
