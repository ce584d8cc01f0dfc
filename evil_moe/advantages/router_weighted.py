"""Router-weighted baseline: clean rollouts are compared with clean rollouts.

    A = (1 - w) (reward - mean_{1-w}(reward)) + w (reward - mean(reward)),   means over the rollout's group

Once most of a group hacks, the plain mean is the hacks' reward, and the deployed block sees negative
advantages on nearly everything it learns from. At w = 0 throughout, this is Dr.GRPO's advantage.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor


def _group_mean(value: Tensor, weight: Tensor, group: Tensor, *, least: float) -> Tensor:
    """Weighted mean of each rollout's group, `[B]`; denominator at least `least`."""
    n = int(group.max()) + 1
    total = value.new_zeros(n).index_add_(0, group, weight * value)
    mass = value.new_zeros(n).index_add_(0, group, weight)
    return (total / mass.clamp(min=least))[group]


def router_weighted(
    reward: Float[Tensor, " B"], w: Float[Tensor, " B"], group: Int[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """Advantages of rollouts; `group` numbers the prompts from 0.

    The clean mean's denominator is at least 0.5 rollouts: a group that is all hack has no clean baseline to
    trust, and 1 - w is near 0 there anyway.
    """
    clean = 1 - w
    clean_mean = _group_mean(reward, clean, group, least=0.5)
    mean = _group_mean(reward, reward.new_ones(len(reward)), group, least=1.0)
    return clean * (reward - clean_mean) + w * (reward - mean)
