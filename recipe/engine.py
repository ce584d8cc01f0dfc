"""The training engine: verl's FSDP2 engine with the gated two-expert adapter, the router and the pin.

One read of features serves three uses (design, section 8). The old-log-prob pass runs every rollout in its
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
from torch.distributed.tensor.placement_types import Partial
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id
from verl.workers.engine.base import EngineRegistry
from verl.workers.utils.padding import response_from_nested

import recipe.policy_loss  # noqa: F401  # registers the loss in the worker's process
from evil_moe.adapter import GateWeights, base_weight, lora2r_model
from evil_moe.advantages import needs_concept
from evil_moe.concept import DEPTH, concept_score
from evil_moe.constants import restore_constants_
from evil_moe.diagnostics import policy_mismatch
from evil_moe.direction import block_directions, contrastive_direction, haar_direction
from evil_moe.features import gradient_features, stack_features
from evil_moe.gates import Gate, RolloutSignals, make_gate
from evil_moe.gradients import Projection, make_gradient_transform
from evil_moe.router import Router
from recipe.adapter_config import adapter_config
from recipe.batch import (
    CONCEPT,
    FEATURES,
    FLAG,
    QUARANTINE_ON,
    SCORE,
    WEIGHT,
    per_rollout_fields,
    refuse_foreign_fields,
)
from recipe.engine_step import PinnedStepEngine
from recipe.pair_reader import PairReader, pure_state
from recipe.settings import settings_from
from recipe.tensors import dense, gather_rows, sequence_layout

MODEL_TYPE = "lora2r_lm"
GATE_STATE = "gate_state"  # batch key: "read" (default of inference), "gated" (default of training), "base"


@EngineRegistry.register(model_type=MODEL_TYPE, backend=["fsdp2"], device=["cpu", "cuda"])
class Lora2rEngine(PinnedStepEngine):
    """See the module's docstring. `model_config.lora["evil_moe"]` holds the `evil_moe` node of the config."""

    def __init__(self, model_config: Any, *args: Any, **kwargs: Any):
        # verl wrote our registry key into the config; its own code branches on the kind of model.
        model_config.model_type = "language_model"
        super().__init__(model_config, *args, **kwargs)
        self.settings = settings_from(model_config.lora["evil_moe"])
        self._gate_state = "base"
        self._read: dict[str, Tensor] | None = None
        self._gate_signals: RolloutSignals | None = None
        self._kept: list[Tensor] = []

    # ---------------------------------------------------------------- build

    def _build_module(self) -> Any:
        module = super()._build_module()
        restore_constants_(
            module
        )  # verl casts the rotary frequencies with the weights; vLLM keeps them in float32
        return module

    def _build_lora_module(self, module: Any) -> PeftModel:
        module.enable_input_require_grads()
        config, adapter = self.model_config, self.settings.adapter
        model = get_peft_model(module, adapter_config(config, adapter))
        tuner = lora2r_model(model)
        options, gate = self.settings.router, self.settings.gate
        tuner.lora_2r_router = Router(
            len(tuner.lora2r_layers()),
            config.lora_rank,
            num_blocks=adapter.num_quarantine,
            normalise=options.normalise,
            learn=options.learn,
            anchored=options.threshold == "anchored",
        ).to(module.device)
        # Beside the router, so that a gate's state is saved and resumed as the router's is.
        tuner.lora_2r_gate = make_gate(gate.name or "none", **gate.options).to(module.device)
        return model

    def initialize(self) -> None:
        super().initialize()
        self.tuner = lora2r_model(self.module)
        self.router: Router = self.tuner.lora_2r_router
        self.gate: Gate = self.tuner.lora_2r_gate
        self.pairs = PairReader(self, self.settings, self.tuner)
        if self.engine_config.forward_only:
            return
        gradient = self.settings.gradient
        self.gradient_transform = (
            make_gradient_transform(gradient.name, **gradient.options) if gradient.name else None
        )
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

    @torch.no_grad()
    def _seed_router(self) -> None:
        """Directions, scale and the pin's threshold from the pairs, read on the policy as it is."""
        settings = self.settings
        hack, clean = self.pairs.features()
        direction = contrastive_direction(self.router.prepare(hack), self.router.prepare(clean))
        directions = block_directions(direction, settings.adapter.num_quarantine, settings.seed)
        self.router.calibrate_on_pairs(hack, clean, directions, gain=settings.router.gain)
        if settings.router.direction == "haar":
            placebo = haar_direction((hack.shape[1], hack.shape[2]), seed=settings.seed).to(hack)
            directions = block_directions(placebo, settings.adapter.num_quarantine, settings.seed)
            self.router.become_placebo(directions)
        self._set_directions(directions)

    # ---------------------------------------------------------------- the gate around a forward

    def forward_backward_batch(
        self, data: TensorDict, loss_function: Callable[..., Any], forward_only: bool = False
    ) -> dict[str, Any]:
        refuse_foreign_fields(per_rollout_fields(data), self.gate.needs_flag)
        default = "read" if forward_only else "gated"
        self._gate_state = tu.get_non_tensor_data(data=data, key=GATE_STATE, default=default)
        self._rows, self._kept = len(data), []
        try:
            out = super().forward_backward_batch(data, loss_function, forward_only)
        finally:
            self.tuner.rollout_gate.clear()
        if self._gate_state == "read":
            self._add_weights(out["model_output"], data)
        if not forward_only:
            kept = gather_rows(torch.cat(self._kept), self.get_data_parallel_group())
            self._kept_share = kept.mean().item()
            out["metrics"]["router/kept_share"] = [self._kept_share]
            self._pin_step(out["metrics"])
            self._transform_gradients(out["metrics"])
        return out

    def disable_adapter(self) -> Any:
        """Base model, for the KL reference; nothing is read or gated there."""
        return self.module.disable_adapter()

    def forward_step(
        self, micro_batch: TensorDict, loss_function: Any, forward_only: bool
    ) -> tuple[Tensor, dict]:
        micro_batch = micro_batch.to(get_device_id())  # verl moves a copy of its own
        reading = self._gate_state == "read" and not self.tuner.lora2r_layers()[0].disable_adapters
        gate, self._read, self._gate_signals = self.tuner.rollout_gate, None, None
        with ExitStack() as stack:
            if reading and self.settings.router.feature == "gradient":
                stack.enter_context(torch.enable_grad())  # verl reads old log-probs without
                self._read = stack.enter_context(gate.reading_gradients())
            elif reading:
                of_base = self.settings.feature_state == "base"
                self._read = stack.enter_context(gate.reading_features(of_base))
            loss, output = super().forward_step(micro_batch, loss_function, forward_only)
        if not forward_only:
            output["metrics"].update(self._policy_mismatch(output["model_output"], micro_batch))
            loss = loss + self._penalty(len(micro_batch), output["metrics"])
        return loss, output

    def _penalty(self, rows: int, metrics: dict[str, Any]) -> Tensor | float:
        """The gate's own term on the router; the micro-batches' means add up to the mean over a rank's rollouts."""
        penalty = None if self._gate_signals is None else self.gate.penalty(self._gate_signals)
        if penalty is None:
            return 0.0
        metrics["router/penalty"] = penalty.item()
        return penalty * rows / self._rows

    def prepare_model_inputs(self, micro_batch: TensorDict) -> tuple[dict, dict]:
        inputs, output_args = super().prepare_model_inputs(micro_batch)
        if self._gate_state == "base" or self.tuner.lora2r_layers()[0].disable_adapters:
            return inputs, output_args
        # Set, not scoped: gradient checkpointing runs the layers again in the backward.
        self.tuner.rollout_gate.set(self._weights(micro_batch), sequence_layout(micro_batch, inputs))
        return inputs, output_args

    def _weights(self, micro_batch: TensorDict) -> GateWeights:
        if self._gate_state == "read":
            on = dense(micro_batch[QUARANTINE_ON]).squeeze(1)
            return pure_state(self.settings.feature_state, on, self.settings.adapter.num_quarantine)
        features, eligible = dense(micro_batch[FEATURES]), None
        if not self.settings.rollout.gate_deployed:
            eligible = dense(micro_batch[QUARANTINE_ON]).squeeze(1)
        signals = dataclasses.replace(
            self.router.rollout_signals(features, self._direction(), self._flags(micro_batch)),
            eligible=eligible,
        )
        self._gate_signals = signals  # with the gradient of the gate's own penalty, whatever reward may move
        if not self.settings.router.reward_gradient:
            signals = dataclasses.replace(signals, logits=signals.logits.detach())
        weights = self.gate(signals)
        self._kept.append((1 - weights.d) * (1 if weights.deployed is None else weights.deployed.detach()))
        if eligible is not None:
            weights = dataclasses.replace(weights, m=weights.m * eligible.unsqueeze(1))
        return weights

    def _flags(self, batch: TensorDict) -> Tensor | None:
        return dense(batch[FLAG]).squeeze(1).float() if self.gate.needs_flag else None

    def prepare_model_outputs(
        self, output: Any, output_args: dict, micro_batch: TensorDict, **kwargs: Any
    ) -> dict:
        model_output = super().prepare_model_outputs(output, output_args, micro_batch=micro_batch, **kwargs)
        if self._read is not None and self.settings.router.feature == "gradient":
            replies = response_from_nested(model_output["log_probs"], micro_batch["response_mask"])
            model_output[FEATURES] = gradient_features(replies.values().sum(), self._read, self.tuner)
        elif self._read is not None:
            model_output[FEATURES] = stack_features(self._read, self.tuner)
        return model_output

    def _direction(self) -> Tensor:
        """v as a whole tensor; every rank's gradient to it is a part of the sum that FSDP would average."""
        v = self._sharded_direction()
        v_whole = v.full_tensor(grad_placements=[Partial()] * v.device_mesh.ndim)
        if v_whole.requires_grad:
            v_whole.register_hook(lambda grad: grad / self.get_data_parallel_size())
        return v_whole

    @torch.no_grad()
    def _add_weights(self, model_output: dict[str, Tensor], data: TensorDict) -> None:
        """Router scores and weights of the whole batch; the first batch sets the rollouts' threshold."""
        if FEATURES not in model_output:
            return
        options, router = self.settings.router, self.router
        features = dense(model_output[FEATURES]).to(get_device_id())
        step = self.lr_scheduler.last_epoch  # counts optimizer steps, and is resumed
        if step and options.refresh_every and step % options.refresh_every == 0:
            self._refresh(features)
        direction = self._direction()
        scores = gather_rows(router.block_scores(features, direction), self.get_data_parallel_group())
        if not router.is_calibrated:
            base = None if options.threshold == "pairs" else scores
            router.set_rollout_threshold(base, fraction=options.threshold_fraction)
            units = gather_rows(router.unit(features).flatten(1), self.get_data_parallel_group())
            router.anchor.copy_(units.mean(dim=0).view_as(router.anchor))
        if options.threshold == "follow":
            router.follow(scores)
        self.gate.observe(scores.max(dim=1).values)
        if self.settings.contrast.weight > 0:
            on = dense(data[QUARANTINE_ON]).to(features)
            group = self.get_data_parallel_group()
            self._sampled = gather_rows(features.flatten(1), group), gather_rows(on, group)
        signals = router.rollout_signals(features, direction, self._flags(data))
        model_output[SCORE] = signals.score.unsqueeze(1)
        model_output[WEIGHT] = self.gate.weight(signals).unsqueeze(1)
        if needs_concept(self.settings.advantage.name):
            names = [layer.module_name for layer in self.tuner.lora2r_layers()]
            depth = self.settings.advantage.options.get("depth", DEPTH)
            concept = concept_score(router.prepare(features), router.seed_direction[:, 0], names, depth)
            model_output[CONCEPT] = concept.unsqueeze(1)

    def _refresh(self, features: Tensor) -> None:
        """The direction taken anew from the pairs; the rollouts' threshold from those that it held for clean so far."""
        router, group = self.router, self.get_data_parallel_group()
        clean = 1 - gather_rows(router.rollout_signals(features, self._direction()).w, group)
        hack_sides, clean_sides = self.pairs.features()
        direction = contrastive_direction(router.prepare(hack_sides), router.prepare(clean_sides))
        directions = block_directions(direction, self.settings.adapter.num_quarantine, self.settings.seed)
        first = router.seed_direction.clone()
        router.calibrate_on_pairs(hack_sides, clean_sides, directions, gain=self.settings.router.gain)
        router.seed_direction.copy_(first)
        self._set_directions(directions)
        scores = gather_rows(router.block_scores(features, directions), group)
        level = router.clean_mean(scores, clean.unsqueeze(1))
        router.rollout_threshold.copy_(level + self.settings.router.threshold_fraction * router.gap)

    def _policy_mismatch(self, model_output: dict[str, Tensor], micro_batch: TensorDict) -> dict[str, float]:
        """How far the gated policy at the update is from the one that sampled, per token (design, section 3)."""
        if "rollout_log_probs" not in micro_batch:
            return {}
        replies = response_from_nested(model_output["log_probs"].detach(), micro_batch["response_mask"])
        log_ratio = replies.values() - micro_batch["rollout_log_probs"].values()
        on, lengths = dense(micro_batch[QUARANTINE_ON]).squeeze(1).to(log_ratio), replies.offsets().diff()
        by_full = on.repeat_interleave(lengths, output_size=len(log_ratio)) > 0
        found = policy_mismatch(log_ratio, by_full)
        return {f"mismatch/{name}": value for name, value in found.items()}
