"""Features of a rollout: the deployed bottleneck `(A0 + dA)[:r] x_m` of every wrapped module m over its completion, pooled to
`[M, r]` as a plug says. Read without gradient, on a forward that happens anyway (old log-probs)."""

from __future__ import annotations

from typing import Any

from evil_moe.features.base import Pooling, Reading, normalise_per_module
from evil_moe.features.gradient import gradient_features
from evil_moe.features.last import LastPooling
from evil_moe.features.mean import MeanPooling
from evil_moe.features.tokens import TokenReading
from evil_moe.features.window import WindowPooling
from evil_moe.plugs import make_plug

__all__ = [
    "POOLINGS",
    "LastPooling",
    "MeanPooling",
    "Pooling",
    "Reading",
    "TokenReading",
    "WindowPooling",
    "gradient_features",
    "make_pooling",
    "normalise_per_module",
]

POOLINGS: dict[str, type[Pooling]] = {"mean": MeanPooling, "window": WindowPooling, "last": LastPooling}


def make_pooling(name: str, **options: Any) -> Pooling:
    """The pooling called `name` with its options.

    Raises:
        ValueError: no such pooling, or an option it does not have.
    """
    return make_plug("router.pooling", name, POOLINGS, options)
