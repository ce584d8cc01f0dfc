"""What the layers need to know of the rollouts in one forward: their weights, their layout, what to read.

One `ForwardState` is shared by all layers of a model. A linear's forward sees hidden states only, so the
weights of the rollouts reach it through this object, set before the forward and kept until the backward is
done (gradient checkpointing runs the forward again).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class GateWeights:
    """Weights of the rollouts of a batch (design: y = W x + (1-d) dep + d stopgrad(dep) + sum_k m_k quar_k).

    Attributes:
        m: weight of each quarantine block's output, `[B, K]`, in [0, 1]; may carry gradient to the router.
        d: share of the deployed block's gradient that is stopped, `[B]`, in [0, 1]; no gradient.
        deployed: weight of the deployed block's output, `[B]`; None for 1 (activation masking needs 0).
    """

    m: Float[Tensor, "B K"]
    d: Float[Tensor, " B"]
    deployed: Float[Tensor, " B"] | None = None

    def __post_init__(self) -> None:
        if self.m.ndim != 2 or self.d.shape != self.m.shape[:1]:
            raise ValueError(
                f"gate weights must be m [B, K] and d [B], got {list(self.m.shape)}, {list(self.d.shape)}"
            )
        if self.d.requires_grad:
            raise ValueError("d scales a gradient and must not carry one: detach it")


@dataclass(frozen=True)
class SequenceLayout:
    """Where the sequences of a batch lie in the hidden states.

    Attributes:
        segment: index of each token's rollout, `[T]`, for hidden states `[1, T, D]` (packed); None for
            padded hidden states `[B, T, D]`.
        completion: 1 on completion tokens, 0 elsewhere; `[T]` packed, `[B, T]` padded. Read for features only.
        batch_size: number of rollouts B.
    """

    segment: Int[Tensor, " T"] | None
    completion: Tensor | None
    batch_size: int

    def per_token(self, per_rollout: Tensor) -> Tensor:
        """Spread `[B, C]` over tokens: `[1, T, C]` packed, `[B, 1, C]` padded."""
        if self.segment is None:
            return per_rollout.unsqueeze(1)
        return per_rollout[self.segment].unsqueeze(0)

    def completion_mean(self, hidden: Tensor) -> Float[Tensor, "B C"]:
        """Mean of `hidden` over each rollout's completion tokens; a rollout without any gets zeros."""
        if self.completion is None:
            raise ValueError("this layout carries no completion mask, so features cannot be read")
        mask = self.completion.to(hidden.dtype)
        if self.segment is None:
            total = torch.einsum("bt,btc->bc", mask, hidden)
            count = mask.sum(1)
        else:
            total = hidden.new_zeros(self.batch_size, hidden.shape[-1])
            total.index_add_(0, self.segment, hidden[0] * mask.unsqueeze(-1))
            count = mask.new_zeros(self.batch_size).index_add_(0, self.segment, mask)
        return total / count.clamp(min=1).unsqueeze(-1)

    def completion_tokens(self) -> tuple[Int[Tensor, " n"], Int[Tensor, " B"]]:
        """Rows of the completion tokens in the flattened hidden states, rollout by rollout, and how many each rollout has."""
        if self.completion is None:
            raise ValueError("this layout carries no completion mask, so features cannot be read")
        rows = self.completion.flatten().nonzero().squeeze(1)
        rollout = rows // self.completion.shape[1] if self.segment is None else self.segment[rows]
        return rows, torch.bincount(rollout, minlength=self.batch_size)


@runtime_checkable
class FeatureReading(Protocol):
    """What takes the bottlenecks of a forward (`evil_moe.features.Reading`)."""

    def record(self, module: str, bottleneck: Tensor, layout: SequenceLayout) -> None:
        """`bottleneck: [b, T, r]` of the deployed block at the wrapped linear called `module`."""


AnyReading = TypeVar("AnyReading", bound=FeatureReading)


class ForwardState:
    """State shared by the layers: one of the pure states, or the weights of a batch."""

    def __init__(self) -> None:
        self.quarantine_on = True
        self.weights: GateWeights | None = None
        self.layout: SequenceLayout | None = None
        self.reading: FeatureReading | None = None
        self.of_base = False
        self.probes: dict[str, Tensor] | None = None

    def set(self, weights: GateWeights | None, layout: SequenceLayout) -> None:
        """Use `weights` (None: the pure state) and `layout` from the next forward on, until `clear`."""
        if weights is not None and len(weights.d) != layout.batch_size:
            raise ValueError(f"weights of {len(weights.d)} rollouts for a layout of {layout.batch_size}")
        self.weights, self.layout = weights, layout

    def clear(self) -> None:
        """Back to the pure state: whole adapter on, or deployed block only if the quarantine is off."""
        self.weights, self.layout = None, None

    @contextmanager
    def gated(self, weights: GateWeights | None, layout: SequenceLayout) -> Iterator[None]:
        """`set` for the block, then `clear`; the backward must run inside the block."""
        self.set(weights, layout)
        try:
            yield
        finally:
            self.clear()

    @contextmanager
    def reading_features(self, reading: AnyReading, of_base: bool = False) -> Iterator[AnyReading]:
        """Give each module's bottleneck to `reading`, in the forward of the block.

        The bottleneck is that of the deployed block, `A x`. With `of_base` the forwards are the base model's, whatever the
        weights, and it is that before training, `A0 x`.
        """
        if self.reading is not None:
            raise RuntimeError("features are already being read")
        self.reading, self.of_base = reading, of_base
        try:
            yield reading
        finally:
            self.reading, self.of_base = None, False

    @contextmanager
    def reading_gradients(self) -> Iterator[dict[str, Tensor]]:
        """Add a zero probe `[B, r]` to each module's deployed bottleneck, the same on all tokens of a rollout, in the
        forwards of the block. The gradient of a sum over rollouts with respect to it is each rollout's own, summed
        over its tokens."""
        if self.probes is not None:
            raise RuntimeError("gradients are already being read")
        self.probes = {}
        try:
            yield self.probes
        finally:
            self.probes = None

    @contextmanager
    def quarantine_off(self) -> Iterator[None]:
        """Run the deployed model: the quarantine adds nothing in the pure state."""
        before, self.quarantine_on = self.quarantine_on, False
        try:
            yield
        finally:
            self.quarantine_on = before
