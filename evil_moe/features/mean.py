"""The mean over the completion: h_m = mean over completion tokens of (A0 + dA)[:r] x_m."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from evil_moe.adapter import Lora2rModel, SequenceLayout
from evil_moe.features.base import Pooling, Reading, stacked


class MeanPooling(Pooling):
    """Every token counts alike, so a short hack behind a long reply hardly does."""

    def reading(self, tuner: Lora2rModel) -> Reading:
        return _MeanReading(tuner)


class _MeanReading(Reading):
    def __init__(self, tuner: Lora2rModel):
        super().__init__(tuner)
        self.means: dict[str, Tensor] = {}

    def record(self, module: str, bottleneck: Tensor, layout: SequenceLayout) -> None:
        self.means[module] = layout.completion_mean(bottleneck.float())

    def features(self, eyes: Tensor | None = None, *, normalise: bool = True) -> Float[Tensor, "B M r"]:
        return stacked(self.means, self.names)
