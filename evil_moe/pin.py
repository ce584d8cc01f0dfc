"""The pin: what holds the router's directions at "hack" while reward pulls on them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from evil_moe.router import Router


def pin_loss(
    router: Router,
    hack: Float[Tensor, "P *W M r"],
    clean: Float[Tensor, "P *W M r"],
    direction: Tensor | None = None,
    *,
    matched: bool = False,
) -> Float[Tensor, ""]:
    """Binary cross-entropy of `w` on the pairs: 1 on the hack side, 0 on the clean side; mean over the 2P sides.

    Few pairs are told apart by many a direction, also by what their tasks differ in, and the cross-entropy rewards the
    router for turning to those. `matched` asks of each pair that its hack side score higher, by the two sides' difference
    in logits (Bradley and Terry, 1952): what they share cancels, and at the seeded direction there is next to nothing left
    to gain, so the pin holds and does not train. Mean over the P pairs.

    The features carry no gradient, so the pin moves the directions and nothing else.
    """
    logit = router.signals(torch.cat([hack, clean]).detach(), router.pin_threshold, direction).logit
    if matched:
        return F.softplus(logit[len(hack) :] - logit[: len(hack)]).mean()
    labels = torch.cat([torch.ones(len(hack)), torch.zeros(len(clean))]).to(logit)
    return F.binary_cross_entropy_with_logits(logit, labels)
