"""Between backward and step: the pin, the gradient transform, clipping; and v as the optimizer knows it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor
from torch.nn.utils import get_total_norm
from verl.utils.device import get_device_id
from verl.utils.fsdp_utils import fsdp2_clip_grad_norm_
from verl.workers.config.optimizer import build_optimizer

from evil_moe.adapter import lora2r_model
from evil_moe.contrast import contrast_loss
from evil_moe.diagnostics import cosine, drift, gradient_energy
from evil_moe.experiment.settings import EvilMoESettings
from evil_moe.gradients import GradientTransform
from evil_moe.pin import pin_loss
from recipe.actor.tensors import whole
from recipe.engine_weights import AdapterWeightsEngine
from recipe.pair_reader import PairReader


class PinnedStepEngine(AdapterWeightsEngine):
    """verl's engine with the optimizer step of the method."""

    settings: EvilMoESettings
    pairs: PairReader
    gradient_transform: GradientTransform | None
    _kept_share: float
    """Of the deployed block's gradient, mean over the rollouts of the step."""
    _unrouted: dict[str, Tensor] | None
    """Gradients of dA and dB with d = 0, where the gradient transform needs them."""
    _sampled: tuple[Tensor, Tensor]
    """Features `[B, *W, M, r]` and `quarantine_on` `[B, 1]` of all rollouts of the step, for the contrast."""

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

    def load_checkpoint(self, local_path: str, *args: Any, **kwargs: Any) -> None:
        super().load_checkpoint(local_path, *args, **kwargs)
        self.pairs.forget()

    def _sharded_direction(self) -> DTensor:
        """v as the optimizer knows it. A forward without backward leaves the root's parameters gathered."""
        self.module.reshard()
        v = self.router.direction
        assert isinstance(v, DTensor), "the router's direction must be sharded by FSDP2 outside of a forward"
        return v

    def _set_directions(self, directions: Tensor) -> None:
        v = self._sharded_direction()
        with torch.no_grad():
            v.copy_(distribute_tensor(directions, v.device_mesh, v.placements))

    def _pin_step(self, metrics: dict[str, list[Any]]) -> None:
        """Add the gradients of pin and contrast, once per optimizer step, whatever the number of micro-batches and ranks.

        They reach v outside the FSDP forward, through v's own gather: a loss that read v from a side channel of
        the root's forward would miss FSDP2's hooks, and its gradient would leak into the next step.
        """
        v = self._sharded_direction()
        reward_grad = (
            whole(v.grad).clone() if v.grad is not None else torch.zeros(v.shape, device=get_device_id())
        )
        weight = self.settings.pin.weight
        if weight > 0:
            hack, clean = self.pairs.features(self.router.eyes(whole(v.detach())))
            # All ranks compute the same loss from the same features: the gradient is already the whole one.
            direction = v.full_tensor(grad_placements=[Replicate()] * v.device_mesh.ndim)
            loss = pin_loss(self.router, hack, clean, direction, matched=self.settings.pin.matched)
            (weight * loss).backward()
            assert v.grad is not None
            pin_grad = whole(v.grad) - reward_grad
            metrics["pin/loss"] = [loss.item()]
            metrics["pin/grad_norm"] = [pin_grad.norm().item()]
            metrics["router/cos_pin_reward"] = [cosine(pin_grad, reward_grad)]
        # Of the gate's own penalty, too, in the arms that have one.
        metrics["router/reward_grad_norm"] = [reward_grad.norm().item()]
        if self.settings.contrast.weight > 0:
            features, on = self._sampled
            direction = v.full_tensor(grad_placements=[Replicate()] * v.device_mesh.ndim)
            loss = contrast_loss(self.router, features, on.squeeze(1), direction)
            (self.settings.contrast.weight * loss).backward()
            metrics["contrast/loss"] = [loss.item()]
        direction = whole(v.detach())
        metrics["router/drift"] = [drift(direction, self.router.seed_direction)]
        metrics["router/anchor_shift"] = [self.router.anchor_shift(direction).mean().item()]

    def _transform_gradients(self, metrics: dict[str, list[Any]]) -> None:
        """The plug of the gradient stop: after the last backward, before clipping."""
        blocks = {name: p for name, p in self.module.named_parameters() if "lora_2r_d" in name}
        gradients = {name: p.grad for name, p in blocks.items() if p.grad is not None}
        energy = gradient_energy(gradients, self.model_config.lora_rank)
        if self._unrouted is not None:
            energy["unrouted"] = gradient_energy(self._unrouted, self.model_config.lora_rank)["deployed"]
        metrics.update({f"grad_energy/{block}": [value] for block, value in energy.items()})
        if self.gradient_transform is not None:
            changed = self.gradient_transform(gradients)
            metrics.update({f"gradient/{name}": [value] for name, value in changed.items()})

    def optimizer_step(self) -> float:
        """Clip the adapter and the direction apart, then step: one must not use up the other's norm.

        Returns the adapter's gradient norm before clipping. A step with a norm that is not finite is skipped.
        """
        router, clip = self.settings.router, self.optimizer_config.clip_grad
        adapter = [p for group in self.optimizer.param_groups[:1] for p in group["params"]]
        norm = fsdp2_clip_grad_norm_(adapter, max_norm=clip)
        norms = [whole(norm)]
        if self._unrouted is not None:
            norms.append(whole(get_total_norm(list(self._unrouted.values()))))
        if router.learn and self._sharded_direction().grad is not None:
            router_clip = clip if router.clip_grad is None else router.clip_grad
            norms.append(whole(fsdp2_clip_grad_norm_([self.router.direction], max_norm=router_clip)))
        if not all(bool(torch.isfinite(value)) for value in norms):
            print(f"WARN: gradient norm is not finite ({[float(value) for value in norms]}); step skipped")
            self.optimizer.zero_grad()
        else:
            with self._around_step(float(norms[0])):
                self.optimizer.step()
        self._unrouted = None
        return float(norms[0])

    def _around_step(self, norm: float) -> AbstractContextManager[None]:
        if self.gradient_transform is None:
            return nullcontext()
        if self._unrouted is not None:
            clipped = min(1.0, self.optimizer_config.clip_grad / (norm + 1e-6))  # as torch's clip_grad_norm_
            for gradient in self._unrouted.values():
                gradient.mul_(clipped)
            self.gradient_transform.take_unrouted(self._unrouted)
        blocks = {name: p for name, p in self.module.named_parameters() if "lora_2r_d" in name}
        return self.gradient_transform.around_step(blocks, self._kept_share)
