"""A linear with the two-expert LoRA in its residual form.

    A = A0 + dA, B = B0 + dB;   delta(x) = B A x - B0 A0 x = B0 (dA x) + dB (A x)

A0, B0 are frozen and random, dA, dB are trained from zero, so the update is exactly 0 at init without the
cancellation that subtracting two copies has in bf16, and weight decay on dA, dB pulls towards the init. Rows
`[:r]` of A (columns of B) are the deployed block, the rest the K quarantine blocks (Evil MoE, lora2r).
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from jaxtyping import Float
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor

from evil_moe.adapter.config import Lora2rConfig
from evil_moe.adapter.forward_state import ForwardState


class _UpProjection(torch.autograd.Function):
    """`h @ up.T` in value; in gradient each column of h counts `keep` times, `[b or 1, T or 1, C]`, 0 to 1.

    The scale is on the bottleneck, which is a few ranks wide, and not on the output, which is D_out wide.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, up: Tensor, keep: Tensor) -> Tensor:
        ctx.save_for_backward(h, up, keep)
        return F.linear(h, up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        h, up, keep = ctx.saved_tensors
        return (grad @ up) * keep, grad.flatten(0, -2).T @ (h * keep).flatten(0, -2), None


def _module_seed(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 1


def base_weight(layer: Lora2rLinear) -> Tensor:
    """Weight of the wrapped linear, `[D_out, D_in]`."""
    weight = layer.get_base_layer().weight
    assert isinstance(weight, Tensor)
    return weight


class Lora2rLinear(nn.Module, BaseTunerLayer):
    """Wraps `base_layer: [D_out, D_in]`; per adapter dA `[R, D_in]`, dB `[D_out, R]` trained, A0, B0 frozen."""

    adapter_layer_names = ("lora_2r_dA", "lora_2r_dB")
    other_param_names = ("lora_2r_A0", "lora_2r_B0", "configs")

    def __init__(
        self, base_layer: nn.Linear, adapter_name: str, config: Lora2rConfig, state: ForwardState, name: str
    ):
        super().__init__()
        self.base_layer: nn.Linear = base_layer
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        self.state, self.module_name = state, name
        self.configs: dict[str, Lora2rConfig] = {}
        self.lora_2r_dA, self.lora_2r_dB = nn.ParameterDict(), nn.ParameterDict()
        self.lora_2r_A0, self.lora_2r_B0 = BufferDict({}, persistent=True), BufferDict({}, persistent=True)
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: Lora2rConfig, **_: Any) -> None:
        """Add an adapter: A0 ~ N(0, 1/D_in), B0 ~ N(0, 1/R) from the module's own seed; dA = dB = 0."""
        total_rank = config.total_rank
        generator = torch.Generator().manual_seed(_module_seed(config.init_seed, self.module_name))
        a0 = torch.randn(total_rank, self.in_features, generator=generator) / math.sqrt(self.in_features)
        b0 = torch.randn(self.out_features, total_rank, generator=generator) / math.sqrt(total_rank)
        self.configs[adapter_name] = config
        self.lora_2r_A0[adapter_name], self.lora_2r_B0[adapter_name] = a0, b0
        self.cast_init(adapter_name)
        self.lora_2r_dA[adapter_name] = nn.Parameter(torch.zeros_like(a0))
        self.lora_2r_dB[adapter_name] = nn.Parameter(torch.zeros_like(b0))
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def cast_init(self, adapter_name: str) -> None:
        """A0, B0 in the base model's precision: they are half of the adapter's memory."""
        dtype = base_weight(self).dtype
        for init in (self.lora_2r_A0, self.lora_2r_B0):
            if adapter_name in init:
                init[adapter_name] = init[adapter_name].to(dtype)

    def forward(self, x: Float[Tensor, "b T D_in"], *args: Any, **kwargs: Any) -> Float[Tensor, "b T D_out"]:
        """Base output plus the gated update; see `GateWeights` for the formula."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        out: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return out
        for adapter_name in self.active_adapters:
            if adapter_name not in self.lora_2r_dA:
                continue
            if self.state.of_base:
                dtype = self.lora_2r_dA[adapter_name].dtype
                a0 = self.lora_2r_A0[adapter_name][: self.configs[adapter_name].r].to(dtype)
                self._record_features(F.linear(x.to(dtype), a0))
            else:
                out = out + self._update(x, adapter_name).to(out.dtype)
        return out

    def _update(self, x: Tensor, adapter_name: str) -> Tensor:
        config, state = self.configs[adapter_name], self.state
        r = config.r
        d_a, d_b = self.lora_2r_dA[adapter_name], self.lora_2r_dB[adapter_name]
        a0, b0 = self.lora_2r_A0[adapter_name].to(d_a.dtype), self.lora_2r_B0[adapter_name].to(d_b.dtype)
        x = x.to(d_a.dtype)
        # One product for dA x and A0 x, and one for B0 and dB below: thin products cost what their wide side does.
        low, at_init = F.linear(x, torch.cat([d_a, a0])).chunk(2, dim=-1)  # [b, T, R] each
        if state.probes is not None:
            low = low + self._probe(low, r, state)
        full = at_init + low  # A x
        if state.reading is not None:
            self._record_features(full[..., :r])

        if state.weights is None:
            block = slice(None) if state.quarantine_on else slice(0, r)
            h = torch.cat([low[..., block], full[..., block]], dim=-1) * config.scaling
            return F.linear(h, torch.cat([b0[:, block], d_b[:, block]], dim=1))

        weights, layout = state.weights, state.layout
        assert layout is not None and weights.m.shape[1] == config.num_quarantine
        deployed = torch.ones_like(weights.d) if weights.deployed is None else weights.deployed
        m = weights.m.repeat_interleave(config.quarantine_rank, dim=1)
        value = torch.cat([deployed.unsqueeze(1).expand(-1, r), m], dim=1) * config.scaling  # [B, R]
        keep = torch.cat([(1 - weights.d).unsqueeze(1).expand(-1, r), torch.ones_like(m)], dim=1)
        value, keep = (layout.per_token(scale.repeat(1, 2)).to(low.dtype) for scale in (value, keep))
        h = torch.cat([low, full], dim=-1) * value
        up: Tensor = _UpProjection.apply(h, torch.cat([b0, d_b], dim=1), keep)  # type: ignore[no-untyped-call]
        return up

    @torch.no_grad()
    def _record_features(self, bottleneck: Tensor) -> None:
        reading, layout = self.state.reading, self.state.layout
        assert reading is not None and layout is not None, "reading features needs a layout"
        reading.record(self.module_name, bottleneck, layout)

    def _probe(self, low: Tensor, r: int, state: ForwardState) -> Tensor:
        """The zeros of `ForwardState.reading_gradients`, spread over tokens and padded to all R ranks."""
        assert state.layout is not None and state.probes is not None, "reading gradients needs a layout"
        probe = low.new_zeros(state.layout.batch_size, r, requires_grad=True)
        state.probes[self.module_name] = probe
        return state.layout.per_token(F.pad(probe, (0, low.shape[-1] - r)))

    def get_delta_weight(self, adapter_name: str) -> Float[Tensor, "D_out D_in"]:
        """The update as a matrix, with the quarantine on."""
        d_a, d_b = self.lora_2r_dA[adapter_name], self.lora_2r_dB[adapter_name]
        a0, b0 = self.lora_2r_A0[adapter_name].to(d_a.dtype), self.lora_2r_B0[adapter_name].to(d_b.dtype)
        delta: Tensor = (b0 @ d_a + d_b @ (a0 + d_a)) * self.configs[adapter_name].scaling
        return delta

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the update to the base weight; `safe_merge` refuses a weight that is not finite.

        Raises:
            ValueError: `safe_merge` and the merged weight holds NaN or infinity.
        """
        for adapter_name in check_adapters_to_merge(self, adapter_names):
            if adapter_name not in self.lora_2r_dA:
                continue
            weight = base_weight(self)
            merged = weight.data + self.get_delta_weight(adapter_name).to(weight.dtype)
            if safe_merge and not torch.isfinite(merged).all():
                raise ValueError(
                    f"merging adapter {adapter_name!r} into {self.module_name} gives NaN or infinity"
                )
            weight.data = merged
            self.merged_adapters.append(adapter_name)

    def unmerge(self) -> None:
        """Subtract every merged update again."""
        while self.merged_adapters:
            weight = base_weight(self)
            weight.data -= self.get_delta_weight(self.merged_adapters.pop()).to(weight.dtype)
