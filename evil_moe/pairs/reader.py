"""What the method does with the contrastive pairs on the policy as it is: features for router and pin, inits, gradients, fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from evil_moe.adapter import SequenceLayout, lora2r_model
from evil_moe.adapter.forward_state import ForwardState
from evil_moe.adapter.init import CONTRASTIVE, InputCovariance, initialise, input_covariances
from evil_moe.direction import with_best_windows
from evil_moe.discardable import SideBatch, fit_quarantine_
from evil_moe.features import MeanPooling, Pooling, Reading, gradient_features, normalise_per_module
from evil_moe.hack_gradient import hack_gradient, pair_nll
from evil_moe.pairs.loader import load_pairs
from evil_moe.pairs.sides import PairSides
from evil_moe.passes import pure_state
from evil_moe.ranks import Ranks
from evil_moe.settings import MethodSettings

MODULES_AT_ONCE = 8
"""Whose input covariances are held together: about 1 GiB for a layer of Qwen3-4B."""


class PairReader:
    """The pairs of a run on a model that may be sharded; every rank runs its share of the sides.

    Args:
        tokenizer: of the policy.
        ranks: who shares the sides.
        max_tokens: of a forward whose activations a backward needs, padding counted; None: no bound.

    Raises:
        ValueError: the pairs are malformed, or there are more ranks than sides.
    """

    def __init__(
        self,
        model: PeftModel,
        settings: MethodSettings,
        pooling: Pooling,
        tokenizer: Any,
        ranks: Ranks,
        max_tokens: int | None = None,
    ):
        self.model, self.settings, self.pooling, self.ranks = model, settings, pooling, ranks
        self.tuner, self.max_tokens = lora2r_model(model), max_tokens
        self._unchanging: Reading | None = None
        pairs = settings.pairs
        self.sides = PairSides(
            load_pairs(
                pairs.paths, groups=pairs.groups, matched=pairs.matched, shuffle_seed=pairs.shuffle_seed
            ),
            tokenizer,
            pairs.chat_template,
            ranks.rank,
            ranks.size,
            pairs.system or "",
        )

    def features(self, eyes: Tensor) -> tuple[Tensor, Tensor]:
        """Features of all hack and clean sides, `[P, *W, M, r]` each, in the state, of the kind and pooled as the rollouts'.

        Args:
            eyes: the directions that the pooling looks along, if any, `[N, M, r]`.
        """
        if self.settings.router.feature == "gradient":
            return self._all_sides(self._all_gradients())
        if self._unchanging is None:
            inputs, completion = self.sides.inputs(self.ranks.device)
            reading = self._activations(inputs, completion, self.pooling)
            if self.settings.feature_state == "base":
                self._unchanging = reading
        else:
            reading = self._unchanging
        return self._all_sides(reading.features(eyes, normalise=self.settings.router.normalise))

    def seed_features(self) -> tuple[Tensor, Tensor]:
        """What the seeded direction is made from, `[P, M, r]` each: the features, or, where those depend on a direction, the mean
        over the completion; with `direction_tokens=hack_only` the mean over the hack sides' own tokens, and with `hack_windows`
        that in equal parts with the best windows along it."""
        options = self.settings.router
        if options.feature == "gradient":
            return self._all_sides(self._all_gradients())
        inputs, completion = self.sides.inputs(self.ranks.device)
        own = options.direction_tokens != "completion"
        if own:
            completion = self.sides.own_tokens(completion)
        by_mean = self.pooling.by_direction or own
        reading = self._activations(inputs, completion, MeanPooling() if by_mean else self.pooling)
        hack, clean = self._all_sides(reading.features())
        if options.direction_tokens != "hack_windows":
            return hack, clean
        prepare = normalise_per_module if options.normalise else lambda features: features
        return with_best_windows(hack, clean, lambda v: self.features(v.unsqueeze(0)), prepare)

    def _all_sides(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Hack and clean sides of all ranks."""
        return self.sides.split_sides(self.ranks.gather(features))

    @torch.no_grad()
    def _activations(self, inputs: dict[str, Tensor], completion: Tensor, pooling: Pooling) -> Reading:
        """A forward of the sides, read."""
        state = self.settings.feature_state
        with (
            self._in_state(state, completion) as forward,
            forward.reading_features(pooling.reading(self.tuner), of_base=state == "base") as read,
        ):
            # Only the features are wanted; a fused head insists on return_dict.
            self.model(**inputs, use_cache=False, logits_to_keep=1, return_dict=True)
        return read

    def _all_gradients(self) -> Tensor:
        """Gradient features of this rank's sides, `[S, M, r]`."""
        inputs, completion = self.sides.inputs(self.ranks.device)
        rows = torch.arange(len(completion), device=completion.device).tensor_split(self._parts())
        parts = [({name: value[i] for name, value in inputs.items()}, completion[i]) for i in rows]
        state = self.settings.feature_state
        return torch.cat([self._gradients(*part, state) for part in parts])

    def _gradients(self, inputs: dict[str, Tensor], completion: Tensor, state: str) -> Tensor:
        """Gradient features of some sides, `[S, M, r]`."""
        with (
            torch.enable_grad(),
            self._in_state(state, completion) as forward,
            forward.reading_gradients() as read,
        ):
            nll = pair_nll(self.model, completion=completion, **inputs)
            return gradient_features(-nll.sum(), read, self.tuner)

    @contextmanager
    def _in_state(self, state: str, completion: Tensor) -> Iterator[ForwardState]:
        """The forward as it is for rollouts read in this state."""
        layout = SequenceLayout(None, completion, len(completion))
        weights = pure_state(state, torch.ones_like(completion[:, 0]), self.settings.adapter.num_quarantine)
        with self.tuner.forward_state.gated(weights, layout):
            yield self.tuner.forward_state

    def _parts(self) -> int:
        """Forwards over the sides whose activations a backward needs: as many tokens as an update's micro-batch."""
        return 1 if self.max_tokens is None else self.sides.parts(self.max_tokens)

    def forget(self) -> None:
        """The weights have changed under the base features as well: a checkpoint brings its own A0."""
        self._unchanging = None

    def initialise_adapter(self) -> None:
        """A0, B0 as `evil_moe.adapter.init` says; no-op for the gaussian init, which the layers were built with."""
        name = self.settings.adapter.init
        modules = [layer.module_name for layer in self.tuner.lora2r_layers()]
        for start in range(0, len(modules), MODULES_AT_ONCE):
            part = modules[start : start + MODULES_AT_ONCE]
            # Eigenvectors are known up to sign: the ranks take rank 0's.
            initialise(
                self.tuner,
                name,
                covariances=self._covariances(part) if name in CONTRASTIVE else None,
                modules=part,
                synchronise=self.ranks.broadcast_,
            )

    def _covariances(self, modules: list[str]) -> dict[str, InputCovariance]:
        """Of the inputs of some modules on the pairs, from a forward of the policy as it is."""
        inputs, completion = self.sides.inputs(self.ranks.device)
        return input_covariances(
            self.tuner,
            lambda: self.model(**inputs, use_cache=False, logits_to_keep=1, return_dict=True),
            completion,
            self.sides.hack.to(completion.device),
            modules=modules,
            sum_over_ranks=self.ranks.reduce_,
        )

    def fit_quarantine(self) -> None:
        """Discardable LoRA: the quarantine learns the hack sides, before any reward."""
        adapter, hack = self.settings.adapter, self.sides.hack
        if not adapter.quarantine_steps:
            return
        if not hack.any():
            raise ValueError(
                "a rank has no hack side to fit the quarantine on: use more pairs or fewer ranks"
            )
        inputs, completion = self.sides.inputs(self.ranks.device)
        mine = hack.to(completion.device)
        batch = SideBatch({name: value[mine] for name, value in inputs.items()}, completion[mine])
        losses = fit_quarantine_(
            self.model,
            [batch],
            steps=adapter.quarantine_steps,
            learning_rate=adapter.quarantine_lr,
            denominator=self.sides.num_pairs / self.ranks.size,
        )
        print(
            f"quarantine fitted on {self.sides.num_pairs} hack sides: NLL {losses[0]:.3f} -> {losses[-1]:.3f}"
        )

    def hack_gradient(self) -> dict[str, Tensor]:
        """v_hack of every dA, dB on the policy as it is, placed as the gradients are."""
        inputs, completion = self.sides.inputs(self.ranks.device)
        return hack_gradient(
            self.model,
            inputs,
            completion,
            self.sides.hack.to(completion.device),
            denominator=self.sides.num_pairs / self.ranks.size,
            micro_batches=self._parts(),
        )
