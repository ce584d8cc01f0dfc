"""The training engine: verl's FSDP2 engine with the gated two-expert adapter, the router and the pin.

One read of features serves three uses (design, section 8). The old-log-prob pass runs every rollout in its
feature state and returns log-probs and features; w follows from the features for the advantage stage; the
update recomputes w from the same features, this time with gradient, and gates the forward with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from peft import PeftModel, TaskType, get_peft_model
from tensordict import TensorDict
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor
from torch.distributed.tensor.placement_types import Partial
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id
from verl.utils.fsdp_utils import fsdp2_clip_grad_norm_, load_fsdp_model_to_gpu, offload_fsdp_model_to_cpu
from verl.utils.py_functional import convert_to_regular_types
from verl.workers.config.optimizer import build_optimizer
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
from verl.workers.utils.padding import response_from_nested

import recipe.policy_loss  # noqa: F401  # registers the loss in the worker's process
from evil_moe.adapter import GateWeights, Lora2rConfig, SequenceLayout, lora2r_model
from evil_moe.diagnostics import cosine, drift, gradient_energy
from evil_moe.direction import contrastive_direction, haar_direction
from evil_moe.export import KINDS, adapter_tensors, export_adapter
from evil_moe.features import stack_features
from evil_moe.gates import make_gate
from evil_moe.pairs import load_pairs
from evil_moe.pin import pin_loss
from evil_moe.router import Router
from recipe.adapter_checkpoint import save_adapter_checkpoint
from recipe.batch import FEATURES, QUARANTINE_ON, SCORE, WEIGHT, refuse_foreign_fields
from recipe.pair_batch import PairBatch
from recipe.settings import settings_from
from recipe.tensors import dense, gather_rows, sequence_layout, whole

MODEL_TYPE = "lora2r_lm"
GATE_STATE = "gate_state"  # batch key: "read" (default of inference), "gated" (default of training), "base"


@EngineRegistry.register(model_type=MODEL_TYPE, backend=["fsdp2"], device=["cpu", "cuda"])
class Lora2rEngine(FSDPEngineWithLMHead):
    """See the module's docstring. `model_config.lora["evil_moe"]` holds the `evil_moe` node of the config."""

    def __init__(self, model_config: Any, *args: Any, **kwargs: Any):
        # verl wrote our registry key into the config; its own code branches on the kind of model.
        model_config.model_type = "language_model"
        super().__init__(model_config, *args, **kwargs)
        self.settings = settings_from(model_config.lora["evil_moe"])
        self.gate_fn = make_gate(self.settings.gate.name, **self.settings.gate.options)
        self._gate_state = "base"
        self._read: dict[str, Tensor] | None = None

    # ---------------------------------------------------------------- build

    def _build_lora_module(self, module: Any) -> PeftModel:
        module.enable_input_require_grads()
        config, adapter = self.model_config, self.settings.adapter
        model = get_peft_model(
            module,
            Lora2rConfig(
                task_type=TaskType.CAUSAL_LM,
                r=config.lora_rank,
                lora_alpha=config.lora_alpha,
                num_quarantine=adapter.num_quarantine,
                quarantine_rank=adapter.quarantine_rank,
                init_seed=adapter.init_seed,
                target_modules=convert_to_regular_types(config.target_modules),
                exclude_modules=convert_to_regular_types(config.exclude_modules),
            ),
        )
        tuner = lora2r_model(model)
        options = self.settings.router
        tuner.lora_2r_router = Router(
            len(tuner.lora2r_layers()), config.lora_rank, normalise=options.normalise, learn=options.learn
        ).to(module.device)
        return model

    def _build_optimizer(self, module: PeftModel) -> torch.optim.Optimizer:
        router, config = self.settings.router, self.optimizer_config
        adapter = [
            p for name, p in module.named_parameters() if p.requires_grad and "lora_2r_router" not in name
        ]
        groups: list[dict[str, Any]] = [{"params": adapter}]
        if router.learn:
            direction = lora2r_model(module).lora_2r_router.direction
            lr = config.lr if router.lr is None else router.lr
            groups.append({"params": [direction], "lr": lr, "weight_decay": 0.0})
        return build_optimizer(groups, config)

    def initialize(self) -> None:
        super().initialize()
        self.tuner = lora2r_model(self.module)
        self.router: Router = self.tuner.lora_2r_router
        pairs = load_pairs(
            self.settings.pairs.paths, groups=self.settings.pairs.groups, matched=self.settings.pairs.matched
        )
        self.pairs = PairBatch(
            pairs,
            self.model_config.tokenizer,
            self.settings.pairs.chat_template,
            self.get_data_parallel_rank(),
            self.get_data_parallel_size(),
        )
        if self.engine_config.forward_only:
            return
        with self.eval_mode():
            self._seed_router()

    @torch.no_grad()
    def _seed_router(self) -> None:
        """Direction, scale and the pin's threshold from the pairs, read on the base policy (dA = dB = 0)."""
        hack, clean = self._pair_features()
        direction = contrastive_direction(self.router.prepare(hack), self.router.prepare(clean))
        self.router.calibrate_on_pairs(hack, clean, direction, gain=self.settings.router.gain)
        if self.settings.router.direction == "haar":
            direction = haar_direction((hack.shape[1], hack.shape[2]), seed=self.settings.seed).to(hack)
            self.router.become_placebo(direction)
        v = self._sharded_direction()
        v.copy_(distribute_tensor(direction, v.device_mesh, v.placements))

    # ---------------------------------------------------------------- the gate around a forward

    def forward_backward_batch(
        self, data: TensorDict, loss_function: Callable[..., Any], forward_only: bool = False
    ) -> dict[str, Any]:
        refuse_foreign_fields(key for key, value in data.items() if isinstance(value, Tensor))
        default = "read" if forward_only else "gated"
        self._gate_state = tu.get_non_tensor_data(data=data, key=GATE_STATE, default=default)
        try:
            out = super().forward_backward_batch(data, loss_function, forward_only)
        finally:
            self.tuner.rollout_gate.clear()
        if self._gate_state == "read":
            self._add_weights(out["model_output"])
        if not forward_only:
            self._pin_step(out["metrics"])
        return out

    def disable_adapter(self) -> Any:
        """Base model, for the KL reference; nothing is read or gated there."""
        return self.module.disable_adapter()

    def forward_step(
        self, micro_batch: TensorDict, loss_function: Any, forward_only: bool
    ) -> tuple[Tensor, dict]:
        reading = self._gate_state == "read" and not self.tuner.lora2r_layers()[0].disable_adapters
        with self.tuner.rollout_gate.reading_features() if reading else nullcontext() as self._read:
            loss, output = super().forward_step(micro_batch, loss_function, forward_only)
        if not forward_only:
            output["metrics"].update(self._policy_mismatch(output["model_output"], micro_batch))
        return loss, output

    def prepare_model_inputs(self, micro_batch: TensorDict) -> tuple[dict, dict]:
        inputs, output_args = super().prepare_model_inputs(micro_batch)
        if self._gate_state == "base" or self.tuner.lora2r_layers()[0].disable_adapters:
            return inputs, output_args
        # Set, not scoped: gradient checkpointing runs the layers again in the backward.
        self.tuner.rollout_gate.set(self._weights(micro_batch), sequence_layout(micro_batch, inputs))
        return inputs, output_args

    def _weights(self, micro_batch: TensorDict) -> GateWeights:
        num_quarantine = self.settings.adapter.num_quarantine
        if self._gate_state == "read":
            on = dense(micro_batch[QUARANTINE_ON]).squeeze(1)
            if self.settings.feature_state != "rollout":
                on = torch.full_like(on, float(self.settings.feature_state == "full"))
            return GateWeights(m=on.unsqueeze(1).expand(-1, num_quarantine), d=torch.zeros_like(on))
        w = self.router.weight(dense(micro_batch[FEATURES]), self._direction())
        return self.gate_fn(w, num_quarantine)

    def prepare_model_outputs(
        self, output: Any, output_args: dict, micro_batch: TensorDict, **kwargs: Any
    ) -> dict:
        model_output = super().prepare_model_outputs(output, output_args, micro_batch=micro_batch, **kwargs)
        if self._read is not None:
            model_output[FEATURES] = stack_features(self._read, self.tuner)
        return model_output

    def _sharded_direction(self) -> DTensor:
        """v as the optimizer knows it. A forward without backward leaves the root's parameters gathered."""
        self.module.reshard()
        v = self.router.direction
        assert isinstance(v, DTensor), "the router's direction must be sharded by FSDP2 outside of a forward"
        return v

    def _direction(self) -> Tensor:
        """v as a whole tensor; every rank's gradient to it is a part of the sum that FSDP would average."""
        v = self._sharded_direction()
        v_whole = v.full_tensor(grad_placements=[Partial()] * v.device_mesh.ndim)
        if v_whole.requires_grad:
            v_whole.register_hook(lambda grad: grad / self.get_data_parallel_size())
        return v_whole

    @torch.no_grad()
    def _add_weights(self, model_output: dict[str, Tensor]) -> None:
        """Router scores and weights of the whole batch; the first batch sets the rollouts' threshold."""
        if FEATURES not in model_output:
            return
        features = dense(model_output[FEATURES]).to(get_device_id())
        direction = self._direction()
        scores = self.router.score(features, direction)
        if not self.router.is_calibrated:
            base = (
                None
                if self.settings.router.threshold == "pairs"
                else gather_rows(scores, self.get_data_parallel_group())
            )
            self.router.set_rollout_threshold(base, fraction=self.settings.router.threshold_fraction)
        w = self.router.weight(features, direction)
        model_output[SCORE], model_output[WEIGHT] = scores.unsqueeze(1), w.unsqueeze(1)

    def _policy_mismatch(self, model_output: dict[str, Tensor], micro_batch: TensorDict) -> dict[str, float]:
        """How far the gated policy at the update is from the one that sampled, per token (design, section 3)."""
        if "rollout_log_probs" not in micro_batch:
            return {}
        gated = response_from_nested(
            model_output["log_probs"].detach(), micro_batch["response_mask"]
        ).values()
        log_ratio = gated - micro_batch["rollout_log_probs"].values()
        ratio = log_ratio.exp()
        return {
            "mismatch/log_ratio": log_ratio.mean().item(),
            "mismatch/kl": (ratio - 1 - log_ratio).mean().item(),  # k3 estimate of KL(sampling || gated)
            "mismatch/ratio_max": ratio.max().item(),
        }

    # ---------------------------------------------------------------- the pin

    def _pair_features(self) -> tuple[Tensor, Tensor]:
        """Features of all hack and clean sides, `[P, M, r]` each; each rank runs its share of the sides."""
        tuner = self.tuner
        state = float(self.settings.feature_state != "deployed")
        inputs, completion = self.pairs.inputs(get_device_id())
        on = torch.full((len(completion),), state, device=completion.device)
        weights = GateWeights(
            m=on.unsqueeze(1).expand(-1, self.settings.adapter.num_quarantine), d=torch.zeros_like(on)
        )
        gate, layout = tuner.rollout_gate, SequenceLayout(None, completion, len(completion))
        with torch.no_grad(), gate.gated(weights, layout), gate.reading_features() as read:
            # Only the features are wanted; verl's fused head insists on return_dict.
            self.module(**inputs, use_cache=False, logits_to_keep=1, return_dict=True)
            features = stack_features(read, tuner)
        return self.pairs.split_sides(gather_rows(features, self.get_data_parallel_group()))

    def _pin_step(self, metrics: dict[str, list[Any]]) -> None:
        """Add the pin's gradient, once per optimizer step, whatever the number of micro-batches and ranks.

        It reaches v outside the FSDP forward, through v's own gather: a loss that read v from a side channel of
        the root's forward would miss FSDP2's hooks, and its gradient would leak into the next step.
        """
        v = self._sharded_direction()
        reward_grad = (
            whole(v.grad).clone() if v.grad is not None else torch.zeros(v.shape, device=get_device_id())
        )
        weight = self.settings.pin.weight
        if weight > 0:
            hack, clean = self._pair_features()
            # All ranks compute the same loss from the same features: the gradient is already the whole one.
            direction = v.full_tensor(grad_placements=[Replicate()] * v.device_mesh.ndim)
            loss = pin_loss(self.router, hack, clean, direction)
            (weight * loss).backward()
            assert v.grad is not None
            pin_grad = whole(v.grad) - reward_grad
            metrics["pin/loss"] = [loss.item()]
            metrics["pin/grad_norm"] = [pin_grad.norm().item()]
            metrics["router/cos_pin_reward"] = [cosine(pin_grad, reward_grad)]
        metrics["router/reward_grad_norm"] = [reward_grad.norm().item()]
        metrics["router/drift"] = [drift(whole(v.detach()), self.router.seed_direction)]
        gradients = {
            n: p.grad for n, p in self.module.named_parameters() if "lora_2r_d" in n and p.grad is not None
        }
        energy = gradient_energy(gradients, self.model_config.lora_rank)
        metrics.update({f"grad_energy/{block}": [value] for block, value in energy.items()})

    def optimizer_step(self) -> float:
        """Clip the adapter and the direction apart, then step: one must not use up the other's norm.

        Returns the adapter's gradient norm before clipping. A step with a norm that is not finite is skipped.
        """
        router, clip = self.settings.router, self.optimizer_config.clip_grad
        adapter = [p for group in self.optimizer.param_groups[:1] for p in group["params"]]
        norm = fsdp2_clip_grad_norm_(adapter, max_norm=clip)
        norms = [whole(norm)]
        if router.learn and self._sharded_direction().grad is not None:
            router_clip = clip if router.clip_grad is None else router.clip_grad
            norms.append(whole(fsdp2_clip_grad_norm_([self.router.direction], max_norm=router_clip)))
        if not all(bool(torch.isfinite(value)) for value in norms):
            print(f"WARN: gradient norm is not finite ({[float(value) for value in norms]}); step skipped")
            self.optimizer.zero_grad()
        else:
            self.optimizer.step()
        return float(norms[0])

    # ---------------------------------------------------------------- weights out

    def get_per_tensor_param(
        self, layered_summon: bool = False, base_sync_done: bool = False, **kwargs: Any
    ) -> Any:
        """Both plain-LoRA exports in one stream, named `<kind>::<parameter>`, for the rollout engine."""
        if not base_sync_done:
            return super().get_per_tensor_param(layered_summon=layered_summon, base_sync_done=False, **kwargs)
        with self._on_device():
            tensors = adapter_tensors(self.module)
        config, stream, configs = self.module.peft_config["default"], {}, {}
        for kind in KINDS:
            state, configs[kind] = export_adapter(tensors, config, kind)
            dtype = next(iter(tensors.values()))[2].dtype  # that of the base model
            stream.update({f"{kind}::{name}": value.to(dtype) for name, value in state.items()})
        return stream.items(), {"lora2r": configs}

    def save_checkpoint(self, local_path: str, *args: Any, **kwargs: Any) -> None:
        """verl's sharded checkpoint for resuming, plus the whole adapter and router for every other use."""
        super().save_checkpoint(local_path, *args, **kwargs)
        with self._on_device():
            save_adapter_checkpoint(
                self.module, self.router, Path(local_path) / "adapter", write=self.rank == 0
            )
        dist.barrier()

    def load_checkpoint(self, local_path: str, *args: Any, **kwargs: Any) -> None:
        """verl's sharded checkpoint.

        Raises:
            ValueError: it was written by another number of ranks, or is not there.
        """
        world_size = dist.get_world_size()
        path = Path(local_path)
        if not (path / f"model_world_size_{world_size}_rank_{self.rank}.pt").is_file():
            found = sorted({p.name.split("_")[3] for p in path.glob("model_world_size_*_rank_*.pt")})
            written = f"was written by {', '.join(found)} rank(s)" if found else "holds no model"
            raise ValueError(
                f"checkpoint {path} {written}, this run has {world_size}: resume with the same number of ranks "
                "(trainer.n_gpus_per_node x trainer.nnodes), or start a new run_dir"
            )
        super().load_checkpoint(local_path, *args, **kwargs)

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        """Parameters on the accelerator for the block, where they are offloaded otherwise."""
        if self.is_param_offload_enabled:
            load_fsdp_model_to_gpu(self.module)
        try:
            yield
        finally:
            if self.is_param_offload_enabled:
                offload_fsdp_model_to_cpu(self.module)
