"""The training engine: verl's FSDP2 engine with the gated two-expert adapter, the router and the pin.

One read of features serves three uses (docs/architecture.md, "The read"). The old-log-prob pass runs every rollout in its
feature state and returns log-probs and features; w follows from the features for the advantage stage; the
update recomputes w from the same features, this time with gradient, and gates the forward with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id
from verl.workers.engine.base import EngineRegistry
from verl.workers.utils.padding import response_from_nested

import recipe.actor.policy_loss  # noqa: F401  # registers the loss in the worker's process
from evil_moe.adapter import GateWeights, base_weight, lora2r_model
from evil_moe.constants import restore_constants_
from evil_moe.diagnostics import policy_mismatch
from evil_moe.experiment.adapter_config import adapter_config
from evil_moe.experiment.settings import settings_from
from evil_moe.features import Reading, gradient_features, make_pooling
from evil_moe.gates import Gate, RolloutSignals, make_gate
from evil_moe.gradients import Projection, make_gradient_transform
from evil_moe.placebo import MatchedPlacebo
from evil_moe.router import Router
from recipe.actor.fields import (
    FEATURES,
    QUARANTINE_ON,
    per_rollout_fields,
    refuse_foreign_fields,
)
from recipe.actor.tensors import dense, gather_rows, sequence_layout
from recipe.engine_scores import ScoringEngine
from recipe.pair_reader import PairReader, pure_state

MODEL_TYPE = "lora2r_lm"
GATE_STATE = "gate_state"  # batch key: "read" (default of inference), "gated" (default of training), "base"


@EngineRegistry.register(model_type=MODEL_TYPE, backend=["fsdp2"], device=["cpu", "cuda"])
class Lora2rEngine(ScoringEngine):
    """See the module's docstring. `model_config.lora["evil_moe"]` holds the `evil_moe` node of the config."""

    def __init__(self, model_config: Any, *args: Any, **kwargs: Any):
        # verl wrote our registry key into the config; its own code branches on the kind of model.
        model_config.model_type = "language_model"
        super().__init__(model_config, *args, **kwargs)
        self.settings = settings_from(model_config.lora["evil_moe"])
        self._gate_state = "base"
        self._read: Reading | None = None
        self._probes: dict[str, Tensor] | None = None
        self._gate_signals: RolloutSignals | None = None
        self._kept: list[Tensor] = []
        self._unrouted = None

    # ---------------------------------------------------------------- build

    def _build_module(self) -> Any:
        module = super()._build_module()
        # verl casts the rotary frequencies with the weights; vLLM keeps them in float32.
        restore_constants_(module)
        return module

    def _build_lora_module(self, module: Any) -> PeftModel:
        module.enable_input_require_grads()
        config, adapter = self.model_config, self.settings.adapter
        model = get_peft_model(module, adapter_config(config, adapter))
        tuner = lora2r_model(model)
        options, gate = self.settings.router, self.settings.gate
        self.pooling = make_pooling(options.pooling.name or "mean", **options.pooling.options)
        kind = MatchedPlacebo if options.direction == "haar_matched" else Router
        router = kind(
            len(tuner.lora2r_layers()),
            config.lora_rank,
            num_blocks=adapter.num_quarantine,
            normalise=options.normalise,
            learn=options.learn,
            anchored=options.threshold == "anchored",
            windows=self.pooling.windows,
        )
        tuner.lora_2r_router = router.to(module.device)
        # Beside the router, so that a gate's state is saved and resumed as the router's is.
        plug = make_gate(gate.name or "none", **gate.options)
        windows = len(router.eyes()) * self.pooling.windows
        shape = (len(tuner.lora2r_layers()), config.lora_rank)
        plug.allocate(*((windows, *shape) if self.pooling.by_direction else shape))
        tuner.lora_2r_gate = plug.to(module.device)
        return model

    def initialize(self) -> None:
        super().initialize()
        self.tuner = lora2r_model(self.module)
        self.router: Router = self.tuner.lora_2r_router
        self.gate: Gate = self.tuner.lora_2r_gate
        self.pairs = PairReader(self, self.settings, self.tuner, self.pooling)
        if self.engine_config.forward_only:
            return
        gradient = self.settings.gradient
        self.gradient_transform = (
            make_gradient_transform(gradient.name, **gradient.options) if gradient.name else None
        )
        if self.gradient_transform is not None:
            self.gradient_transform.attach(self.optimizer)
        with self.eval_mode():
            self.pairs.initialise_adapter()
            self.pairs.fit_quarantine()
            self._seed_router()
            if isinstance(self.gradient_transform, Projection):
                weights = {layer.module_name: base_weight(layer) for layer in self.tuner.lora2r_layers()}
                prefix = "base_model.model."
                self.gradient_transform.set_direction(
                    self.pairs.hack_gradient(), lambda module: weights[module.removeprefix(prefix)].detach()
                )

    # ---------------------------------------------------------------- the gate around a forward

    def forward_backward_batch(
        self, data: TensorDict, loss_function: Callable[..., Any], forward_only: bool = False
    ) -> dict[str, Any]:
        refuse_foreign_fields(per_rollout_fields(data), self.gate.needs_flag)
        default = "read" if forward_only else "gated"
        self._gate_state = tu.get_non_tensor_data(data=data, key=GATE_STATE, default=default)
        self._kept, self._penalties = [], []
        if self._gate_state == "gated":
            data = self._with_step(data)
        elif self._gate_state == "read":
            self._look()
        try:
            out = super().forward_backward_batch(data, loss_function, forward_only)
        finally:
            self.tuner.forward_state.clear()
        if self._gate_state == "read":
            self._add_weights(out["model_output"], data)
        if not forward_only:
            kept = gather_rows(torch.cat(self._kept), self.get_data_parallel_group())
            self._kept_share = kept.mean().item()
            out["metrics"]["router/kept_share"] = [self._kept_share]
            if self._penalties:
                out["metrics"]["router/penalty"] = [self._step_penalty()]
            if self.gradient_transform is not None and self.gradient_transform.needs_unrouted:
                self._unrouted = self._unrouted_gradients(data, loss_function)
            self._pin_step(out["metrics"])
            self._transform_gradients(out["metrics"])
        return out

    def _unrouted_gradients(self, data: TensorDict, loss_function: Callable[..., Any]) -> dict[str, Tensor]:
        """The gradients of dA and dB with d = 0, by the update's forwards and backwards once more, or as they are if all was kept.

        The step's own are put aside meanwhile. A second pass, and not a second backward of each micro-batch: verl has FSDP sum up
        the micro-batches' gradients before it reduces them, where those of two backwards would be one.
        """
        trained = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        blocks = [name for name in trained if "lora_2r_d" in name]
        routed = {name: p.grad for name, p in trained.items()}
        if self._kept_share == 1:
            return {name: grad.clone() for name in blocks if (grad := routed[name]) is not None}
        for p in trained.values():
            p.grad = None
        self._gate_state = "unrouted"
        try:
            super().forward_backward_batch(data, loss_function)
        finally:
            self.tuner.forward_state.clear()
        unrouted = {name: grad for name in blocks if (grad := trained[name].grad) is not None}
        for name, p in trained.items():
            p.grad = routed[name]
        return unrouted

    def disable_adapter(self) -> Any:
        """Base model, for the KL reference; nothing is read or gated there."""
        return self.module.disable_adapter()

    def forward_step(
        self, micro_batch: TensorDict, loss_function: Any, forward_only: bool
    ) -> tuple[Tensor, dict]:
        micro_batch = micro_batch.to(get_device_id())  # verl moves a copy of its own
        reads = self._gate_state == "read" and not self.tuner.lora2r_layers()[0].disable_adapters
        gate, self._gate_signals = self.tuner.forward_state, None
        self._read, self._probes = None, None
        with ExitStack() as stack:
            if reads and self.settings.router.feature == "gradient":
                stack.enter_context(torch.enable_grad())  # verl reads old log-probs without
                self._probes = stack.enter_context(gate.reading_gradients())
            elif reads:
                of_base = self.settings.feature_state == "base"
                reading = self.pooling.reading(self.tuner)
                self._read = stack.enter_context(gate.reading_features(reading, of_base))
            loss, output = super().forward_step(micro_batch, loss_function, forward_only)
        if not forward_only:
            output["metrics"].update(self._policy_mismatch(output["model_output"], micro_batch))
            loss = loss + self._penalty(len(micro_batch))
        return loss, output

    def prepare_model_inputs(self, micro_batch: TensorDict) -> tuple[dict, dict]:
        inputs, output_args = super().prepare_model_inputs(micro_batch)
        if self._gate_state == "base" or self.tuner.lora2r_layers()[0].disable_adapters:
            return inputs, output_args
        # Set, not scoped: gradient checkpointing runs the layers again in the backward.
        self.tuner.forward_state.set(self._weights(micro_batch), sequence_layout(micro_batch, inputs))
        return inputs, output_args

    def _weights(self, micro_batch: TensorDict) -> GateWeights:
        if self._gate_state == "read":
            on = dense(micro_batch[QUARANTINE_ON]).squeeze(1)
            return pure_state(self.settings.feature_state, on, self.settings.adapter.num_quarantine)
        signals = self._signals(micro_batch)
        self._gate_signals = signals  # with the gradient of the gate's own penalty, whatever reward may move
        if not self.settings.router.reward_gradient:
            signals = dataclasses.replace(signals, logits=signals.logits.detach())
        weights = self.gate(signals)
        if self._gate_state == "unrouted":
            weights = dataclasses.replace(weights, d=torch.zeros_like(weights.d))
        self._kept.append((1 - weights.d) * (1 if weights.deployed is None else weights.deployed.detach()))
        if signals.eligible is not None:
            weights = dataclasses.replace(weights, m=weights.m * signals.eligible.unsqueeze(1))
        return weights

    def prepare_model_outputs(
        self, output: Any, output_args: dict, micro_batch: TensorDict, **kwargs: Any
    ) -> dict:
        model_output = super().prepare_model_outputs(output, output_args, micro_batch=micro_batch, **kwargs)
        if self._probes is not None:
            replies = response_from_nested(model_output["log_probs"], micro_batch["response_mask"])
            model_output[FEATURES] = gradient_features(replies.values().sum(), self._probes, self.tuner)
        elif self._read is not None:
            model_output[FEATURES] = self._read.features(self._eyes, normalise=self.router.normalise)
            self._read = None  # it holds the bottlenecks of all tokens
        return model_output

    def _policy_mismatch(self, model_output: dict[str, Tensor], micro_batch: TensorDict) -> dict[str, float]:
        """How far the gated policy at the update is from the one that sampled, per token (docs/architecture.md, "The behaviour policy")."""
        if "rollout_log_probs" not in micro_batch:
            return {}
        replies = response_from_nested(model_output["log_probs"].detach(), micro_batch["response_mask"])
        log_ratio = replies.values() - micro_batch["rollout_log_probs"].values()
        on, lengths = dense(micro_batch[QUARANTINE_ON]).squeeze(1).to(log_ratio), replies.offsets().diff()
        by_full = on.repeat_interleave(lengths, output_size=len(log_ratio)) > 0
        found = policy_mismatch(log_ratio, by_full)
        return {f"mismatch/{name}": value for name, value in found.items()}
