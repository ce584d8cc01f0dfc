"""Adam's first moment takes the routed gradient of the deployed block, its second moment the unrouted one.

    m = b1 m + (1 - b1) g
    v = b2 v + (1 - b2) u^2
    p = (1 - lr decay) p - lr clamp((m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps), -c_t, c_t)

g is the gradient that the gate let through, u the one that the same rollouts give where nothing is stopped (d = 0),
both after clipping. With u = g it is AdamW's step. The quarantine takes AdamW's, g in both moments.

c_t is how far AdamW itself can step, 1 at t = 1 and 1.16 in the end for betas .9, .95 (`furthest`). With u = g
nothing ever exceeds it. With two gradients a quotient has no bound: what was withheld may cancel what was kept, so
that u is near zero where g is not. In the first step of one batch of 8 rollouts with advantages of both signs the
root mean square of the quotient over the block was 38, where AdamW's is 1.

Why: Adam divides a gradient by its own running size. A gradient that is scaled by 1 - a before Adam is divided by a
size that has shrunk with it, so that its step is up to 1 / (1 - a) times as long as it was meant to be, and the scale
says nothing. arXiv 2604.22407 (Hu et al. 2026, on continual learning) derives this and mends it by changing the first
moment alone; its authors have since withdrawn it, and none of its figures is relied on here. For gradient routing the
"split moment" of shawnghu/small-rl (GRAFT) does so, and this plug follows its RENORMALIZATION.md. Four differences:

- There a mask scales the gradient of the routed parameters alone, and one backward gives both. Our d also stops what
  flows through the deployed block to the layers below, so that u has another path back in every layer: no weighting
  of one backward's parts gives it. The engine runs the update's forwards and backwards a second time, with d = 0.
  That costs the time of the update once more (1.9 times in all on nano's shape) and the memory of the adapter's
  gradients once more (0.53 GB for Qwen3-4B at r = 32), where this plug is used and some of the gradient was stopped,
  and nothing elsewhere.
- There the other adapter's gradient is split, too. Our quarantine's is not scaled by the gate but by its own output's
  weight m.
- A step that does not reach the block is held, and the moments go on (below); there a frozen adapter's moments rest,
  too.
- The clamp. There, where routing may go past 1, v takes the larger of two gradients; here the moments stay as they
  are.

Clipping: `clip_grad` acts on the norm of the routed gradient, and u is scaled by the same factor, as in small-rl: m
and v stay in one unit. A step whose routed or unrouted norm is not finite is skipped as a whole.

What is not moved: if nothing of a step's gradient reaches the deployed block, all of its rollouts being detached or
what was let through being zero in every layer, the block is the same to the bit afterwards, whatever momentum it
carries, without decay. The moments go on as with a gradient of zero: m fades by b1, v takes u. The step counter is
the parameter's, which both blocks share, so that a moment that sat a step out would be corrected for a step that it
has not seen; and what momentum would have moved is dropped, not deferred. If some of the rollouts are detached, these
add nothing to m and lengthen v: the step goes where the others and the momentum of earlier steps, itself of routed
gradients, point, and is the shorter the less of the gradient was let through.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from evil_moe.diagnostics import gradient_energy
from evil_moe.gradients.base import GradientTransform, block_views, check_rank_deployed


class SplitMoment(GradientTransform):
    """See the module's docstring; the deployed block is rows `[:r]` of dA, columns `[:r]` of dB.

    State is torch's own (`exp_avg`, `exp_avg_sq`, `step`), so it is saved and resumed with the optimizer.

    Args:
        rank_deployed: r, the rank of the deployed block.

    Raises:
        ValueError: rank_deployed below 1.
    """

    needs_unrouted = True

    def __init__(self, rank_deployed: int):
        self.rank_deployed = check_rank_deployed(rank_deployed)
        self._optimizer: torch.optim.Optimizer | None = None
        self._unrouted: Mapping[str, Tensor] | None = None

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Raises ValueError: the optimizer is not torch's AdamW in its usual form."""
        plain = type(optimizer) is torch.optim.AdamW
        if not plain or any(group["amsgrad"] or group["maximize"] for group in optimizer.param_groups):
            found = type(optimizer).__qualname__ + (" with amsgrad or maximize" if plain else "")
            raise ValueError(
                "evil_moe.gradient.name=split_moment takes AdamW's step with a second moment of its own, and the optimizer is "
                f"{found}: set actor_rollout_ref.actor.optim.optimizer=AdamW and optimizer_impl=torch.optim, without amsgrad "
                "and maximize in override_optimizer_config"
            )
        self._optimizer = optimizer

    def take_unrouted(self, gradients: Mapping[str, Tensor]) -> None:
        """u, clipped as g is, for the step that comes; placed as the parameters are."""
        self._unrouted = gradients

    @contextmanager
    def around_step(self, parameters: Mapping[str, Tensor], kept_share: float) -> Iterator[None]:
        """The optimizer steps inside; then the deployed block's second moment and step are put right.

        Every rank calls; one collective.

        Raises:
            RuntimeError: there is no optimizer, or no unrouted gradient for this step.
            ValueError: a parameter with a gradient has no unrouted one.
        """
        optimizer, unrouted, self._unrouted = self._optimizer, self._unrouted, None
        if optimizer is None or unrouted is None:
            raise RuntimeError("split_moment: call attach once, and take_unrouted before every step")
        stepped = {name: p for name, p in parameters.items() if p.grad is not None}
        if missing := sorted(stepped.keys() - unrouted.keys()):
            raise ValueError(f"split_moment has no unrouted gradient of {missing[0]!r} ({len(missing)} such)")
        moves = kept_share > 0 and self._reached(stepped)
        weights = self._views(stepped)
        old_weights = [view.clone() for view in weights]
        sizes = {name: _moment(optimizer, p, "exp_avg_sq") for name, p in stepped.items()}
        old_second = [view.clone() for view in self._views(sizes)]
        yield
        first, second = (
            self._views({name: _moment(optimizer, p, key) for name, p in stepped.items()})
            for key in ("exp_avg", "exp_avg_sq")
        )
        group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        rows = zip(
            stepped.values(), weights, old_weights, first, second, old_second,
            self._views({name: unrouted[name] for name in stepped}), strict=True,
        )  # fmt: skip
        with torch.no_grad():
            for p, weight, old, m, v, v_old, u in rows:
                group, step = group_of[id(p)], int(optimizer.state[p]["step"])
                lr, (beta1, beta2) = float(group["lr"]), group["betas"]
                v.copy_(v_old.mul_(beta2).addcmul_(u, u, value=1 - beta2))
                if moves:
                    size = (v / (1 - beta2**step)).sqrt_().add_(group["eps"])
                    bound = furthest(beta1, beta2, step)
                    quotient = (m / (1 - beta1**step)).div_(size).clamp_(-bound, bound)
                    old.mul_(1 - lr * group["weight_decay"]).sub_(quotient, alpha=lr)
                weight.copy_(old)

    def _views(self, tensors: Mapping[str, Tensor]) -> list[Tensor]:
        return block_views(tensors, slice(0, self.rank_deployed))

    def _reached(self, parameters: Mapping[str, Tensor]) -> bool:
        """Whether a number of the deployed block's gradient is not zero, in any layer and on any rank."""
        marks = {name: p.grad != 0 for name, p in parameters.items() if p.grad is not None}
        return bool(marks) and gradient_energy(marks, self.rank_deployed)["deployed"] > 0


def furthest(beta1: float, beta2: float, step: int) -> float:
    """The largest |m| / sqrt(v) of Adam's step number `step`, corrected for bias, over all its gradients so far; infinite if
    b1^2 >= b2, where it grows without end.

    By Cauchy and Schwarz, with m = sum_k x_k g_k, v = sum_k y_k g_k^2 over the last `step` gradients: sqrt(sum_k x_k^2 / y_k).
    """
    ratio = beta1**2 / beta2 if beta2 else math.inf
    if ratio >= 1:
        return math.inf
    total = (1 - beta1) ** 2 / (1 - beta2) * (1 - ratio**step) / (1 - ratio)
    return math.sqrt(total * (1 - beta2**step)) / (1 - beta1**step)


def _moment(optimizer: torch.optim.Optimizer, parameter: Tensor, key: str) -> Tensor:
    """A moment as it is, zero before the first step."""
    state = optimizer.state.get(parameter)
    return state[key] if state else torch.zeros_like(parameter)
