"""The last token of the completion, which has seen all of it."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from evil_moe.adapter import Lora2rModel
from evil_moe.features.base import Pooling, Reading
from evil_moe.features.tokens import TokenReading


class LastPooling(Pooling):
    """The end of the turn, or the token at which the length ran out."""

    def reading(self, tuner: Lora2rModel) -> Reading:
        return _LastReading(tuner)


class _LastReading(TokenReading):
    def features(self, eyes: Tensor | None = None, *, normalise: bool = True) -> Float[Tensor, "B M r"]:
        return self.last()
