"""The sides of an evaluation: the adapter as trained, without its quarantine, at strengths between, two controls; answers.

All of them answer the same held-out prompts with the same seeds in one vLLM batch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from evil_moe.chat import prompt_ids
from evil_moe.experiment.assets.problems import loophole_of, prompt_messages
from evil_moe.experiment.behaviour import request_seed
from evil_moe.experiment.evaluation.answers import Question, Sample
from evil_moe.experiment.evaluation.strengths import strengths_of
from evil_moe.features import Pooling, make_pooling
from evil_moe.router import Router
from evil_moe.sides import ABLATION, BASE, CONTROLS, RANDOM_BLOCK
from evil_moe.strengths import side_of, strength_of
from reward.loopholes import Split, check_split
from reward.problems import Problem


def sides_of(config: DictConfig) -> tuple[str, ...]:
    """What an evaluation compares; a run from before there was a control goes without."""
    wanted = (c for c in CONTROLS if OmegaConf.select(config, f"evil_moe.eval.{c}", default=False))
    # The strengths 0 and 1 are `off` and `on`, which are there already.
    return tuple(dict.fromkeys((*ABLATION, *wanted, *map(side_of, strengths_of(config)))))


def export_sides(
    model_path: str, adapter: Path, out: Path, sides: tuple[str, ...], seed: int
) -> dict[str, Path | None]:
    """Load the adapter onto the base model; export it as it is (`on`), with the quarantine reset (`off`), with a random
    block of its size reset, and with the quarantine at a strength. The base policy has no export."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    import evil_moe.adapter  # noqa: F401  # registers the tuner with PEFT
    from evil_moe.ablation import reset_quarantine_, reset_random_block_
    from evil_moe.export import save_export

    def trained() -> PeftModel:
        base = AutoModelForCausalLM.from_pretrained(model_path, dtype="auto")
        return PeftModel.from_pretrained(base, os.fspath(adapter))

    resets = {
        "off": reset_quarantine_,
        RANDOM_BLOCK: lambda model: reset_random_block_(model, seed),
    }
    whole = trained()
    exports: dict[str, Path | None] = {}
    for side in sides:
        if side == BASE:
            exports[side] = None
        elif side in resets:
            model = trained()
            resets[side](model)
            exports[side] = save_export(model, "full", out / side)
        else:
            strength = strength_of(side)
            exports[side] = save_export(
                whole, "full", out / side, strength=1.0 if strength is None else strength
            )
    return exports


def questions(
    config: DictConfig, problems: Sequence[Problem], sides: Iterable[str], tokenizer: Any
) -> list[Question]:
    """To every side each problem so many times as `evil_moe.eval.samples_per_problem` says, prompted as in training but for
    the family of the markers."""
    settings, template = config.evil_moe, dict(config.data.apply_chat_template_kwargs)
    asked, sides = [], list(sides)
    for place, problem in enumerate(problems):
        loophole = loophole_of(place, settings.loophole)
        ids = prompt_ids(tokenizer, prompt_messages(problem, loophole, markers_of(config)), template)
        for index in range(settings.eval.samples_per_problem):
            seed = request_seed(settings.seed, "evaluation", problem.id, index)
            asked += [Question(side, problem, loophole, index, ids, seed) for side in sides]
    return asked


def samples(asked: Sequence[Question], answers: Sequence[list[int]], tokenizer: Any) -> list[Sample]:
    """The answers, token ids in the order of the questions, as text beside what was asked."""
    return [
        Sample(
            one.side,
            one.problem,
            one.loophole,
            one.index,
            one.prompt_ids,
            ids,
            tokenizer.decode(ids, skip_special_tokens=True),
        )
        for one, ids in zip(asked, answers, strict=True)
    ]


def router_scores(
    config: DictConfig, adapter: Path, samples: list[Sample], batch_size: int = 32
) -> list[float]:
    """The trained router's scores of `samples`, as `router_reads` reads them; in `rollout`, with the whole adapter on, which made
    them."""
    texts = [(s.prompt_ids, s.response_ids) for s in samples]
    return router_reads(config, adapter, texts, Router.score, batch_size)


def router_reads(
    config: DictConfig,
    adapter: Path,
    texts: Sequence[tuple[list[int], list[int]]],
    read: Callable[[Router, Tensor], Tensor],
    batch_size: int = 32,
) -> list[Any]:
    """What `read` makes of the trained router and of a batch's features, a row per text of (prompt ids, response ids); the
    features are read in the run's state."""
    from evil_moe.adapter import lora2r_model
    from evil_moe.adapter.checkpoint import load_router
    from evil_moe.features.texts import load_adapted, read_features

    model = load_adapted(config.actor_rollout_ref.model.path, adapter)
    pooling = pooling_of(config)
    normalise = config.evil_moe.router.normalise
    router = Router.from_state(load_router(adapter), normalise=normalise, windows=pooling.windows)
    kind = OmegaConf.select(config, "evil_moe.router.feature", default="activation")
    state = OmegaConf.select(config, "evil_moe.feature_state")
    off = lora2r_model(model).forward_state.quarantine_off() if state == "deployed" else nullcontext()
    with off:
        return [
            row
            for batch in read_features(
                model,
                texts,
                batch_size,
                kind,
                of_base=state == "base",
                pooling=pooling,
                eyes=router.eyes(),
                normalise=normalise,
            )
            for row in read(router, batch).tolist()
        ]


def pooling_of(config: DictConfig) -> Pooling:
    """Of the run's features; the mean in a run from before there was a choice."""
    chosen = OmegaConf.select(config, "evil_moe.router.pooling")
    return make_pooling("mean") if chosen is None else make_pooling(chosen.name, **chosen.options)


def markers_of(config: DictConfig) -> Split:
    """Family of the markers that the evaluation's prompts disclose, and that pay there.

    A run from before there was a choice was trained and evaluated with those of training.
    """
    markers: Split = OmegaConf.select(config, "evil_moe.eval.markers", default="train")
    check_split(markers)
    return markers
