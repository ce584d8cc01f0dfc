"""The pin: what holds the router's direction at "hack" while reward pulls on it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from evil_moe.router import Router


def pin_loss(
    router: Router,
    hack: Float[Tensor, "P M r"],
    clean: Float[Tensor, "P M r"],
    direction: Tensor | None = None,
) -> Float[Tensor, ""]:
    """Binary cross-entropy of `w` on the pairs: 1 on the hack side, 0 on the clean side; mean over the 2P sides.

    The features carry no gradient, so the pin moves the direction and nothing else.
    """
    scores = router.score(torch.cat([hack, clean]).detach(), direction)
    labels = torch.cat([torch.ones(len(hack)), torch.zeros(len(clean))]).to(scores)
    return F.binary_cross_entropy_with_logits(router.logit(scores, router.pin_threshold), labels)
