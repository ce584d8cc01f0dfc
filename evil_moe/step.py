"""A step of the method, from the features of its rollouts to the optimizer's step.

    start       once: the adapter's init, the quarantine's fit, v from the pairs, what the gradient stage needs
    read_pass   every rollout in its feature state            observe      scores and w; v and thresholds, where they are due
    update_pass every rollout as its gate says                after_backward   pin, contrast, the gradient stage
    optimize    clip and step

One read of features serves three uses (docs/architecture.md, "The read"). The old-log-prob pass runs every rollout in its feature state and returns log-probs and
features; w follows from the features for the advantage stage; the update recomputes w from the same features, this time with
gradient, and gates the forward with it.

Whoever runs the model owns forwards, backwards and optimizer, and calls these in order, on every rank (`evil_moe.ranks`); the model
may be sharded by FSDP2 or whole.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from peft import PeftModel
from torch import Tensor
from torch.nn.utils import get_total_norm

from evil_moe.adapter import base_weight, lora2r_model
from evil_moe.advantages import needs_concept
from evil_moe.build import pooling_of
from evil_moe.concept import DEPTH, concept_score
from evil_moe.diagnostics import gradient_energy
from evil_moe.gates import Gate, RolloutSignals
from evil_moe.gradients import GradientTransform, Projection, make_gradient_transform
from evil_moe.gradients.unrouted import unrouted_gradients
from evil_moe.pairs.reader import PairReader
from evil_moe.passes import ReadPass, Rollouts, UpdatePass, signals_of
from evil_moe.placebo import MatchedPlacebo
from evil_moe.pull import pull_on_direction
from evil_moe.ranks import Ranks
from evil_moe.router import Router
from evil_moe.seeding import calibrate_on_pairs, seed_directions, threshold_rule
from evil_moe.settings import MethodSettings
from evil_moe.sharded import at_rest, place_like, whole, whole_of_shares


@dataclass(frozen=True)
class Observed:
    """Of the rollouts of a read pass, `[B]` each, without gradient.

    Attributes:
        score: largest cosine with a direction. weight: w.
        concept: for the advantage transforms that ask for one; else None.
    """

    score: Float[Tensor, " B"]
    weight: Float[Tensor, " B"]
    concept: Float[Tensor, " B"] | None = None


@dataclass(frozen=True)
class DueStep:
    """What the optimizer's step is to know of the rollouts behind it.

    Attributes:
        kept_share: of the deployed block's gradient, mean over the step's rollouts.
        unrouted: gradients of dA and dB with d = 0; None where the gradient stage asks for none.
    """

    kept_share: float
    unrouted: dict[str, Tensor] | None = None


class MethodStep:
    """The method on a model that carries router and gate (`evil_moe.build.install`); see the module's docstring.

    Args:
        tokenizer: of the policy, for the pairs.
        ranks: the processes that share the rollouts.
        max_tokens: as `PairReader`.

    Raises:
        ValueError: as `PairReader`.
    """

    def __init__(
        self,
        model: PeftModel,
        settings: MethodSettings,
        tokenizer: Any,
        ranks: Ranks,
        max_tokens: int | None = None,
    ):
        self.model, self.settings, self.ranks = model, settings, ranks
        self.tuner = lora2r_model(model)
        self.router: Router = self.tuner.lora_2r_router
        self.gate: Gate = self.tuner.lora_2r_gate
        self.rank_deployed: int = model.peft_config["default"].r
        self.pooling = pooling_of(settings.router)
        self.pairs = PairReader(model, settings, self.pooling, tokenizer, ranks, max_tokens)
        self.gradient: GradientTransform | None = None
        self.sampled: Rollouts | None = None
        """All rollouts of the step, of all ranks, for the contrast."""
        self.due: DueStep | None = None

    # ---------------------------------------------------------------- start

    def start(self, optimizer: torch.optim.Optimizer) -> None:
        """Before the first step, or before a checkpoint is loaded over it.

        Raises:
            ValueError: the gradient stage's plug is not there or does not work with the optimizer; the pairs give no direction.
        """
        gradient = self.settings.gradient
        self.gradient = make_gradient_transform(gradient.name, **gradient.options) if gradient.name else None
        if self.gradient is not None:
            self.gradient.attach(optimizer)
        self.pairs.initialise_adapter()
        self.pairs.fit_quarantine()
        self._set_directions(seed_directions(self.router, self.pairs, self.settings))
        if isinstance(self.gradient, Projection):
            weights = {layer.module_name: base_weight(layer) for layer in self.tuner.lora2r_layers()}
            prefix = "base_model.model."
            self.gradient.set_direction(
                self.pairs.hack_gradient(), lambda module: weights[module.removeprefix(prefix)].detach()
            )

    # ---------------------------------------------------------------- from features to w

    def read_pass(self) -> ReadPass:
        """v is gathered once for all micro-batches."""
        eyes = self.router.eyes(self.direction()) if self.pooling.by_direction else None
        return ReadPass(self.settings, self.tuner, self.router, self.pooling, eyes)

    @torch.no_grad()
    def observe(self, rollouts: Rollouts, steps: int) -> Observed:
        """Scores and weights of all rollouts of a rank; the first step's set the rollouts' threshold.

        Args:
            rollouts: read, in the order they were given to the pass.
            steps: of the optimizer, so far.
        """
        options, router, gather = self.settings.router, self.router, self.ranks.gather
        features = rollouts.features
        assert features is not None
        if steps and options.refresh_every and steps % options.refresh_every == 0:
            self._refresh(features)
        direction = self.direction()
        scores = gather(router.block_scores(features, direction))
        if isinstance(router, MatchedPlacebo):
            router.observe(scores, gather(router.pairs_scores(features)), threshold_rule(options))
        elif not router.is_calibrated:
            base = None if options.threshold == "pairs" else scores
            router.set_rollout_threshold(base, threshold_rule(options))
            router.anchor.copy_(gather(router.unit(features)).mean(dim=0))
        if options.threshold == "follow":
            router.follow(scores)
        if self.gate.remembers:
            self.gate.observe(gather(features), lambda seen: router.score(seen, direction))
        if self.settings.contrast.weight > 0:
            self.sampled = Rollouts(gather(rollouts.quarantine_on.to(features)), gather(features))
        signals = router.rollout_signals(features, direction, rollouts.flag)
        return Observed(signals.score, self.gate.weight(signals), self._concept(features))

    def _concept(self, features: Tensor) -> Tensor | None:
        advantage, router = self.settings.advantage, self.router
        if not needs_concept(advantage.name):
            return None
        names = [layer.module_name for layer in self.tuner.lora2r_layers()]
        seen = router.prepare(features)
        seen = seen if seen.ndim == 3 else seen[:, : router.windows].mean(1)
        return concept_score(seen, router.seed_direction[:, 0], names, advantage.options.get("depth", DEPTH))

    def _refresh(self, features: Tensor) -> None:
        """The direction taken anew from the pairs; the rollouts' threshold from those that it held for clean so far. Windows of
        this step's rollouts are those along the direction before."""
        router, gather = self.router, self.ranks.gather
        clean = 1 - gather(router.rollout_signals(features, self.direction()).w)
        first = router.seed_direction.clone()
        directions = calibrate_on_pairs(router, self.pairs, self.settings)
        router.seed_direction.copy_(first)
        self._set_directions(directions)
        level = router.clean_mean(gather(router.block_scores(features, directions)), clean.unsqueeze(1))
        router.rollout_threshold.copy_(level + self.settings.router.threshold_fraction * router.gap)

    @torch.no_grad()
    def update_pass(self, rollouts: Rollouts) -> UpdatePass:
        """Of all rollouts of a rank, before micro-batches part them: what their gate finds over all of them, on all ranks."""
        gather, ranks = self.ranks.gather, self.ranks
        owner = gather(torch.full((len(rollouts),), ranks.rank, device=rollouts.quarantine_on.device))
        in_step = None
        if self.gate.needs_step:
            own = signals_of(self.settings, self.router, self.direction(), rollouts)
            step = RolloutSignals(
                gather(own.score),
                gather(own.logits),
                None if own.flag is None else gather(own.flag),
                None if own.eligible is None else gather(own.eligible),
            )
            in_step = self.gate.over_step(step)[owner == ranks.rank]
        return UpdatePass(
            self.settings, self.router, self.gate, self.direction, len(owner) / ranks.size, in_step
        )

    # ---------------------------------------------------------------- between backward and step

    def after_backward(self, update: UpdatePass, again: Callable[[UpdatePass], object]) -> dict[str, float]:
        """Once per optimizer step, after its last backward; returns metrics.

        Args:
            update: the pass that was.
            again: runs the same rollouts' forwards and backwards once more, in another pass.
        """
        kept_share = self.ranks.gather(torch.cat(update.kept)).mean().item()
        metrics = {"router/kept_share": kept_share}
        if update.penalties:
            penalty = torch.stack(update.penalties).sum().view(1)
            metrics["router/penalty"] = self.ranks.gather(penalty).mean().item()
        unrouted = None
        if self.gradient is not None and self.gradient.needs_unrouted:
            unrouted = unrouted_gradients(self.model, kept_share, lambda: again(update.without_routing()))
        self.due = DueStep(kept_share, unrouted)
        pull = pull_on_direction(
            self.direction_at_rest(), self.router, self.pairs, self.settings, self.sampled
        )
        return metrics | pull | self._transform_gradients(unrouted)

    def _transform_gradients(self, unrouted: dict[str, Tensor] | None) -> dict[str, float]:
        """The plug of the gradient stage: after the last backward, before clipping."""
        gradients = {name: p.grad for name, p in self._blocks().items() if p.grad is not None}
        energy = gradient_energy(gradients, self.rank_deployed)
        if unrouted is not None:
            energy["unrouted"] = gradient_energy(unrouted, self.rank_deployed)["deployed"]
        metrics = {f"grad_energy/{block}": value for block, value in energy.items()}
        if self.gradient is not None:
            changed = self.gradient(gradients)
            metrics.update({f"gradient/{name}": value for name, value in changed.items()})
        return metrics

    def optimize(
        self,
        optimizer: torch.optim.Optimizer,
        clip_grad: float,
        clip: Callable[[list[Tensor], float], Tensor],
    ) -> float:
        """Clip the adapter and the direction apart, then step: one must not use up the other's norm.

        Args:
            optimizer: of `evil_moe.build.parameter_groups`.
            clip: `torch.nn.utils.clip_grad_norm_`, or what does so for sharded parameters.

        Returns:
            The adapter's gradient norm before clipping. A step with a norm that is not finite is skipped.
        """
        due, self.due, options = self.due, None, self.settings.router
        assert due is not None, "after_backward comes first"
        norms = [whole(clip(list(optimizer.param_groups[0]["params"]), clip_grad))]
        if due.unrouted is not None:
            norms.append(whole(get_total_norm(list(due.unrouted.values()))))
        if options.learn and (v := self.direction_at_rest()).grad is not None:
            norms.append(whole(clip([v], clip_grad if options.clip_grad is None else options.clip_grad)))
        if not all(bool(torch.isfinite(value)) for value in norms):
            print(f"WARN: gradient norm is not finite ({[float(value) for value in norms]}); step skipped")
            optimizer.zero_grad()
        else:
            with self._around_step(due, min(1.0, clip_grad / (float(norms[0]) + 1e-6))):
                optimizer.step()
        return float(norms[0])

    def _around_step(self, due: DueStep, clipped: float) -> AbstractContextManager[None]:
        """`clipped`: what clipping has left of the gradients, as torch has it."""
        if self.gradient is None:
            return nullcontext()
        if due.unrouted is not None:
            for gradient in due.unrouted.values():
                gradient.mul_(clipped)
            self.gradient.take_unrouted(due.unrouted)
        return self.gradient.around_step(self._blocks(), due.kept_share)

    # ---------------------------------------------------------------- parameters

    def direction_at_rest(self) -> Tensor:
        """v as the optimizer knows it."""
        at_rest(self.model)
        return self.router.direction

    def direction(self) -> Tensor:
        """v as a whole tensor, for the losses of single ranks."""
        return whole_of_shares(self.direction_at_rest(), self.ranks.size)

    @torch.no_grad()
    def _set_directions(self, directions: Float[Tensor, "M K r"]) -> None:
        v = self.direction_at_rest()
        v.copy_(place_like(directions, v))

    def _blocks(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.model.named_parameters() if "lora_2r_d" in name}
