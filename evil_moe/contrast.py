"""The contrast: what the whole adapter does and the deployed model does not is what the quarantine has learned.

Pairs show the router the hacks that somebody thought of. Who sampled a rollout shows it the others, without a label: once the
quarantine has begun to take up a hack, rollouts of the whole adapter hold it more often than rollouts of the deployed
model to the same prompts, while what both blocks can do is in both. Learning from two mixtures of unlike shares
orders their components as labels would (Menon et al., 2015, "Learning from Corrupted Binary Labels via Class-Probability
Estimation").
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from evil_moe.router import Router


def contrast_loss(
    router: Router,
    features: Float[Tensor, "B *W M r"],
    quarantine_on: Float[Tensor, " B"],
    direction: Tensor | None = None,
) -> Float[Tensor, ""]:
    """How often a rollout of the deployed model scores above one of the whole adapter, smoothed.

        mean over i (sampled with the quarantine on), j (with it off) of softplus(l_j - l_i)

    in logits `l`, so that thresholds cancel and the two kinds count alike, however many there are. A surrogate of 1 - AUROC, which
    corrupted labels do not bias in its order. The features carry no gradient: it moves the directions and nothing else.

    Args:
        quarantine_on: 1 for rollouts of the whole adapter, 0 for those of the deployed model.

    Raises:
        ValueError: all rollouts were sampled by one of the two.
    """
    logit = router.signals(features.detach(), router.pin_threshold, direction).logit
    on = quarantine_on > 0.5
    if on.all() or not on.any():
        raise ValueError(
            "the contrast needs rollouts of the whole adapter and of the deployed model; set "
            "evil_moe.rollout.deployed_share between 0 and 1"
        )
    return F.softplus(logit[~on].unsqueeze(0) - logit[on].unsqueeze(1)).mean()
