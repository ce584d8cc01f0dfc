"""Advantage transforms: from the rewards of a group and the rollouts' weights to advantages. One file each."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float, Int
from torch import Tensor

from evil_moe.advantages.router_weighted import router_weighted

AdvantageTransform = Callable[
    [Float[Tensor, " B"], Float[Tensor, " B"], Int[Tensor, " B"]], Float[Tensor, " B"]
]
"""(reward, w, group) -> advantage, one number per rollout."""

# `null` in the config keeps the advantages of the trainer's own estimator (GRPO, Dr.GRPO).
_TRANSFORMS: dict[str, AdvantageTransform] = {"router_weighted": router_weighted}


def get_advantage_transform(name: str) -> AdvantageTransform:
    """The transform called `name`.

    Raises:
        ValueError: no such transform.
    """
    if name not in _TRANSFORMS:
        raise ValueError(
            f"evil_moe.advantage.name={name!r} is no transform; choose one of {sorted(_TRANSFORMS)}, or null for plain GRPO"
        )
    return _TRANSFORMS[name]
