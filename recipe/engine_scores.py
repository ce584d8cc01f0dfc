"""From features to scores: the router's start, what the read pass makes of a step's rollouts, what a gate sees of them."""

from __future__ import annotations

import dataclasses

import torch
import torch.distributed as dist
from tensordict import TensorDict
from torch import Tensor
from torch.distributed.tensor.placement_types import Partial
from verl.utils.device import get_device_id

from evil_moe.advantages import needs_concept
from evil_moe.concept import DEPTH, concept_score
from evil_moe.direction import block_directions, contrastive_direction, haar_direction
from evil_moe.features import Pooling
from evil_moe.gates import Gate, RolloutSignals
from evil_moe.placebo import MatchedPlacebo
from evil_moe.settings import RouterSettings
from evil_moe.thresholds import ThresholdRule, gap_rule, quantile_rule, spread_rule
from recipe.actor.fields import CONCEPT, FEATURES, FLAG, QUARANTINE_ON, SCORE, WEIGHT
from recipe.actor.tensors import dense, gather_rows
from recipe.engine_step import PinnedStepEngine

IN_STEP = "in_step"
"""What the gate found of a rollout over its step; made within the actor, and in no batch that comes to it."""


class ScoringEngine(PinnedStepEngine):
    """The step of `PinnedStepEngine`, and what its router and gate decide on."""

    gate: Gate
    pooling: Pooling
    _eyes: Tensor | None
    """What the pooling looks along, `[N, M, r]`; None where it looks along nothing."""
    _gate_signals: RolloutSignals | None
    """Of the micro-batch that runs."""
    _rows: float
    """Rollouts of the step, mean over ranks."""
    _penalties: list[Tensor]
    """The gate's own term on each micro-batch, times its share of the rollouts of a rank."""

    @torch.no_grad()
    def _seed_router(self) -> None:
        """Directions, scale and the pin's threshold from the pairs, read on the policy as it is."""
        settings = self.settings
        directions = self._calibrate_on_pairs()
        if settings.router.direction != "seeded":
            num_modules, _, rank = directions.shape
            placebo = haar_direction((num_modules, rank), seed=settings.seed).to(directions)
            directions = block_directions(placebo, settings.adapter.num_quarantine, settings.seed)
            self.router.become_placebo(directions)
        self._set_directions(directions)

    def _calibrate_on_pairs(self) -> Tensor:
        """Gap, scale and the pin's threshold from the pairs as they are now; returns their directions, `[M, K, r]`."""
        settings, router = self.settings, self.router
        hack, clean = self.pairs.seed_features()
        direction = contrastive_direction(router.prepare(hack), router.prepare(clean))
        directions = block_directions(direction, settings.adapter.num_quarantine, settings.seed)
        hack, clean = self.pairs.features(directions.transpose(0, 1))
        router.calibrate_on_pairs(hack, clean, directions, gain=settings.router.gain)
        return directions

    def _look(self) -> None:
        """Called before a read on every rank: v is gathered once for all of its micro-batches."""
        self._eyes = self.router.eyes(self._direction()) if self.pooling.by_direction else None

    @torch.no_grad()
    def _add_weights(self, model_output: dict[str, Tensor], data: TensorDict) -> None:
        """Router scores and weights of the whole batch; the first batch sets the rollouts' threshold."""
        if FEATURES not in model_output:
            return
        options, router = self.settings.router, self.router
        features = dense(model_output[FEATURES]).to(get_device_id())
        step = self.lr_scheduler.last_epoch  # counts optimizer steps, and is resumed
        if step and options.refresh_every and step % options.refresh_every == 0:
            self._refresh(features)
        direction = self._direction()
        scores = gather_rows(router.block_scores(features, direction), self.get_data_parallel_group())
        if isinstance(router, MatchedPlacebo):
            pairs = gather_rows(router.pairs_scores(features), self.get_data_parallel_group())
            router.observe(scores, pairs, threshold_rule(options))
        elif not router.is_calibrated:
            base = None if options.threshold == "pairs" else scores
            router.set_rollout_threshold(base, threshold_rule(options))
            units = gather_rows(router.unit(features).flatten(1), self.get_data_parallel_group())
            router.anchor.copy_(units.mean(dim=0).view_as(router.anchor))
        if options.threshold == "follow":
            router.follow(scores)
        if self.gate.remembers:
            seen = _all(features, self.get_data_parallel_group())
            self.gate.observe(seen, lambda features: router.score(features, direction))
        if self.settings.contrast.weight > 0:
            on = dense(data[QUARANTINE_ON]).to(features)
            group = self.get_data_parallel_group()
            self._sampled = _all(features, group), gather_rows(on, group)
        signals = router.rollout_signals(features, direction, self._flags(data))
        model_output[SCORE] = signals.score.unsqueeze(1)
        model_output[WEIGHT] = self.gate.weight(signals).unsqueeze(1)
        if needs_concept(self.settings.advantage.name):
            names = [layer.module_name for layer in self.tuner.lora2r_layers()]
            depth = self.settings.advantage.options.get("depth", DEPTH)
            seen = router.prepare(features)
            seen = seen if seen.ndim == 3 else seen[:, : router.windows].mean(1)
            concept = concept_score(seen, router.seed_direction[:, 0], names, depth)
            model_output[CONCEPT] = concept.unsqueeze(1)

    def _refresh(self, features: Tensor) -> None:
        """The direction taken anew from the pairs; the rollouts' threshold from those that it held for clean so far. Windows of
        this step's rollouts are those along the direction before."""
        router, group = self.router, self.get_data_parallel_group()
        clean = 1 - gather_rows(router.rollout_signals(features, self._direction()).w, group)
        first = router.seed_direction.clone()
        directions = self._calibrate_on_pairs()
        router.seed_direction.copy_(first)
        self._set_directions(directions)
        scores = gather_rows(router.block_scores(features, directions), group)
        level = router.clean_mean(scores, clean.unsqueeze(1))
        router.rollout_threshold.copy_(level + self.settings.router.threshold_fraction * router.gap)

    # ---------------------------------------------------------------- what a gate sees

    def _signals(self, batch: TensorDict) -> RolloutSignals:
        """Of rollouts whose features have been read; with gradient to the direction."""
        eligible = None
        if not self.settings.rollout.gate_deployed:
            eligible = dense(batch[QUARANTINE_ON]).squeeze(1)
        signals = self.router.rollout_signals(dense(batch[FEATURES]), self._direction(), self._flags(batch))
        in_step = dense(batch[IN_STEP]) if IN_STEP in batch else None
        return dataclasses.replace(signals, eligible=eligible, in_step=in_step)

    @torch.no_grad()
    def _with_step(self, data: TensorDict) -> TensorDict:
        """The rollouts of an update with what their gate found over all of them, on all ranks, before micro-batches part them."""
        group, device = self.get_data_parallel_group(), get_device_id()
        own = torch.full((len(data), 1), dist.get_rank(group), device=device)
        ranks = gather_rows(own, group).squeeze(1)
        self._rows = len(ranks) / self.get_data_parallel_size()
        if not self.gate.needs_step:
            return data
        signals = self._signals(data.to(device))
        step = RolloutSignals(
            _all(signals.score, group),
            _all(signals.logits, group),
            None if signals.flag is None else _all(signals.flag, group),
            None if signals.eligible is None else _all(signals.eligible, group),
        )
        data = data.copy()  # the caller's stays as it is
        data[IN_STEP] = self.gate.over_step(step)[ranks == dist.get_rank(group)].to(data.device or "cpu")
        return data

    def _penalty(self, rows: int) -> Tensor | float:
        """The gate's own term on the router, so that micro-batches and ranks add up to the mean over the step's rollouts."""
        penalty = None if self._gate_signals is None else self.gate.penalty(self._gate_signals)
        if penalty is None:
            return 0.0
        self._penalties.append(penalty.detach() * rows / self._rows)
        return penalty * rows / self._rows

    def _step_penalty(self) -> float:
        """The penalty of the whole step, on every rank alike."""
        own = torch.stack(self._penalties).sum().view(1)
        return gather_rows(own, self.get_data_parallel_group()).mean().item()

    def _flags(self, batch: TensorDict) -> Tensor | None:
        return dense(batch[FLAG]).squeeze(1).float() if self.gate.needs_flag else None

    def _direction(self) -> Tensor:
        """v as a whole tensor; every rank's gradient to it is a part of the sum that FSDP would average."""
        v = self._sharded_direction()
        v_whole = v.full_tensor(grad_placements=[Partial()] * v.device_mesh.ndim)
        if v_whole.requires_grad:
            v_whole.register_hook(lambda grad: grad / self.get_data_parallel_size())
        return v_whole


def threshold_rule(options: RouterSettings) -> ThresholdRule:
    """As `evil_moe.router.threshold_rule` says."""
    rules = {
        "gap": gap_rule(options.threshold_fraction),
        "spread": spread_rule(options.threshold_spread),
        "quantile": quantile_rule(options.threshold_quantile),
    }
    return rules[options.threshold_rule]


def _all(value: Tensor, group: object) -> Tensor:
    """`gather_rows`, also of rows that are single numbers."""
    return gather_rows(value.reshape(len(value), -1), group).reshape(-1, *value.shape[1:])
