"""Gradient transforms: the adapter's gradients, changed in place between backward and step. One file each."""

from __future__ import annotations

from typing import Any

from evil_moe.gradients.base import GradientTransform
from evil_moe.gradients.freeze_quarantine import FreezeQuarantine
from evil_moe.gradients.kept_share import KeptShare
from evil_moe.gradients.projection import Projection
from evil_moe.gradients.split_moment import SplitMoment
from evil_moe.plugs import make_plug

__all__ = ["GradientTransform", "Projection", "make_gradient_transform"]

# `null` in the config leaves the gradients alone.
_TRANSFORMS: dict[str, type[GradientTransform]] = {
    "freeze_quarantine": FreezeQuarantine,
    "kept_share": KeptShare,
    "projection": Projection,
    "split_moment": SplitMoment,
}


def make_gradient_transform(name: str, **options: Any) -> GradientTransform:
    """The transform called `name` with its options.

    Raises:
        ValueError: no such transform, or an option it does not have.
    """
    return make_plug("gradient", name, _TRANSFORMS, options, null="none")
