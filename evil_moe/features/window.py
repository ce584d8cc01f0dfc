"""The best windows: features averaged over q consecutive completion tokens, and of all such windows the k that look most like a
hack.

    f_t = mean of A x over the tokens t .. t + q - 1 of the completion
    the k windows with the largest cos(f_t, v) are the rollout's features;   its score is their mean cosine

A hack of ten tokens scores the same behind four hundred words of prose, where a mean over the completion has lost it. Which
windows count follows the direction as it is at the read; the update scores those again, with gradient to v. The score is a
maximum: over clean rollouts it has a tail and grows with their length, which the rollouts' threshold has to allow for
(`evil_moe.thresholds`).
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from evil_moe.adapter import Lora2rModel
from evil_moe.features.base import Pooling, Reading
from evil_moe.features.tokens import TokenReading


class WindowPooling(Pooling):
    """The best windows of a completion.

    Args:
        size: q, in tokens; a completion that is shorter is one window.
        best: k. Of a rollout with fewer windows each counts as often as the others, as far as k allows.

    Raises:
        ValueError: size or best below 1.
    """

    by_direction = True

    def __init__(self, size: int = 8, best: int = 1):
        for name, value in (("size", size), ("best", best)):
            if value < 1:
                raise ValueError(f"evil_moe.router.pooling.{name}={value} must be at least 1")
        self.size, self.windows = size, best

    def reading(self, tuner: Lora2rModel) -> Reading:
        return _WindowReading(tuner, self)


class _WindowReading(TokenReading):
    def __init__(self, tuner: Lora2rModel, pooling: WindowPooling):
        super().__init__(tuner)
        self.pooling = pooling

    def features(
        self, eyes: Float[Tensor, "N M r"] | None = None, *, normalise: bool = True
    ) -> Float[Tensor, "B W M r"]:
        if eyes is None:
            raise ValueError("the best windows are those along a direction: give the router's (Router.eyes)")
        return self.best_windows(eyes, self.pooling.size, self.pooling.windows, normalise=normalise)
