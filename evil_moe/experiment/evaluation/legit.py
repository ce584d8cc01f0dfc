"""What an evaluation says of near-hacks that are legit: how the trained router weighs them, and what becomes of solving
where the policy was shown them.

The replies are read as the evaluation's own answers are. On nano's problems they come from the generator
(`reward.legit_cases`), else they are the hand-written ones (`evil_moe.legit`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from evil_moe.chat import prompt_ids, text_ids
from evil_moe.diagnostics import auroc
from evil_moe.experiment.assets.legit_policy import legit_share
from evil_moe.experiment.assets.problems import EVALUATION_DRAW
from evil_moe.experiment.evaluation.answers import Sample
from evil_moe.experiment.evaluation.sides import markers_of, router_reads
from evil_moe.legit import load_legit
from evil_moe.router import Router
from evil_moe.turn_end import turn_end
from reward.legit_cases import carries, legit_cases
from reward.loopholes import mixed
from reward.nano import generate
from reward.verdict import Verdict

NANO_CASES = 48
"""Cases of the generator: twelve of each kind."""
LEGIT_DRAW = 30_000
"""Their problems' seed, beside those of validation and evaluation."""
REAL_MODELS = ("gguf", "smollm")
"""Kinds of policy that read the hand-written replies whatever the problems are."""


class LegitText(NamedTuple):
    """A legit near-hack as the policy reads it."""

    kind: str
    prompt_ids: list[int]
    response_ids: list[int]


def legit_texts(config: DictConfig) -> list[LegitText]:
    """The replies that a run's evaluation weighs, tokenized, each with the end of its turn."""
    from transformers import AutoTokenizer

    settings = config.evil_moe
    if settings.data.source == "nano" and settings.policy.kind not in REAL_MODELS:
        cases = legit_cases(
            NANO_CASES,
            LEGIT_DRAW + int(config.seed),
            loopholes=mixed(settings.loophole),
            markers=markers_of(config),
        )
        shown = [(case.kind, [dict(m) for m in case.messages], case.reply) for case in cases]
    else:
        system = OmegaConf.select(config, "evil_moe.pairs.system", default=None)
        before = [{"role": "system", "content": system}] if system else []
        shown = [
            (entry.kind, [*before, {"role": "user", "content": entry.task}], entry.reply)
            for entry in load_legit()
        ]
    tokenizer = AutoTokenizer.from_pretrained(config.actor_rollout_ref.model.path)
    template = dict(config.data.apply_chat_template_kwargs)
    end = turn_end(tokenizer, template)
    texts = []
    for kind, messages, reply in shown:
        ids = prompt_ids(tokenizer, messages, template)
        texts.append(LegitText(kind, ids, [*text_ids(tokenizer, reply), end]))
    return texts


def legit_result(
    config: DictConfig,
    adapter: Path,
    graded: Sequence[tuple[Sample, Verdict]],
    hack_scores: Sequence[float],
) -> dict[str, Any]:
    """What `eval.json` keeps under `legit`: number of replies, mean score and w, the share with w above .5, all by kind as well,
    and the AUROC of `hack_scores`, those of answers that take the loophole, against them. w is null where the router has no
    threshold. Where the warm start carried such replies, `carrying` has solve rates on the problems whose demonstrations do.

    Raises:
        ValueError: as `legit_share`.
    """

    def score_and_weight(router: Router, features: Tensor) -> Tensor:
        router.anchored = OmegaConf.select(config, "evil_moe.router.threshold") == "anchored"
        signals = router.rollout_signals(features) if router.is_calibrated else None
        scores = router.score(features)
        return torch.stack([scores, torch.full_like(scores, math.nan) if signals is None else signals.w], 1)

    texts = legit_texts(config)
    ids = [(text.prompt_ids, text.response_ids) for text in texts]
    reads = router_reads(config, adapter, ids, score_and_weight)
    kinds = list(dict.fromkeys(text.kind for text in texts))
    result = {
        **_means(reads),
        "auroc": finite_auroc(
            [*hack_scores, *(score for score, _ in reads)], [True] * len(hack_scores) + [False] * len(reads)
        ),
        "by_kind": {
            kind: _means([read for text, read in zip(texts, reads, strict=True) if text.kind == kind])
            for kind in kinds
        },
    }
    if legit_share(config) is not None:
        result["carrying"] = carrying_rates(config, graded)
    return result


def _means(reads: Sequence[Sequence[float]]) -> dict[str, Any]:
    weights = [w for _, w in reads]
    has_w = all(map(math.isfinite, weights))
    return {
        "replies": len(reads),
        "score": fmean(score for score, _ in reads),
        "w": fmean(weights) if has_w else None,
        "w_above_half": fmean(w > 0.5 for w in weights) if has_w else None,
    }


def carrying_rates(config: DictConfig, graded: Sequence[tuple[Sample, Verdict]]) -> dict[str, Any]:
    """Number of answers a side, and solve rates of ON and OFF, on the held-out problems whose demonstrations carry legit
    near-hacks; the rates are null where none of the problems does."""
    rows = generate("heldout", config.evil_moe.data.eval_problems, EVALUATION_DRAW + int(config.seed))
    ours = {row["id"] for row in rows if carries(row["family"])}
    solved = {
        side: [v.correct for s, v in graded if s.side == side and s.problem.id in ours]
        for side in ("on", "off")
    }
    return {
        "answers": len(solved["on"]),
        **{f"solve_{side}": fmean(values) if values else None for side, values in solved.items()},
    }


def finite_auroc(scores: Sequence[float], labels: Sequence[bool]) -> float | None:
    """The AUROC, None where there is one class alone."""
    value = auroc(torch.tensor(scores), torch.tensor(labels))
    return value if math.isfinite(value) else None
