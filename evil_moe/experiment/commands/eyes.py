"""The table of eyes of `evil-moe pairs check`: how well does each way of looking at a reply tell hacks from clean ones on the policy
that a run starts from, and which one to route on?

The replies are `reward.eye_cases`: demonstrations of a loophole and clean ones, alone and behind prose. A nano policy knows the
loopholes that its warm start showed it, and no prose.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig
from peft import PeftModel

from evil_moe.experiment.evaluation.legit import legit_texts
from evil_moe.experiment.run.console import say
from evil_moe.experiment.settings import EvilMoESettings
from evil_moe.eyes import Eye, EyeRow, Looking, Pin, best_eye, eye_table, eyes
from evil_moe.features import TokenReading, WindowPooling, make_pooling
from evil_moe.features.texts import read_forwards
from evil_moe.pairs.sides import PairSides, tokenize_reply
from evil_moe.settings import RouterSettings
from reward.eye_cases import EYE_LOOPHOLES, PROSE_WORDS, eye_cases

MIN_AUROC = 0.9
WORTH_FREEZING = 0.02
"""By how much a direction that stays must be better where it is worst."""
BATCH_SIZE = 16


@dataclass(frozen=True)
class EyesAsked:
    """The table, and the eye that the config has; None if it is none of those asked."""

    rows: list[EyeRow]
    configured: Eye | None
    learns: bool = True
    """Whether the run's direction does."""

    @property
    def best(self) -> EyeRow:
        return best_eye(self.rows, learns=self.learns)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the configured eye is not good enough; empty if it is, or was not asked."""
        row = next((row for row in self.rows if row.eye == self.configured), None)
        if row is None:
            return ()
        reasons = []
        told = [("", row.auroc), (" once the pin has moved the direction", row.pinned if self.learns else {})]
        for when, by_kind in told:
            kind = min(by_kind, key=lambda name: by_kind[name], default=None)
            if kind is not None and by_kind[kind] < MIN_AUROC:
                reasons.append(
                    f"looking by {row.eye}, {kind} is told from clean replies at an AUROC of {by_kind[kind]:.3f}{when}, "
                    f"below {MIN_AUROC}"
                )
        return tuple(reasons)

    def record(self) -> dict[str, Any]:
        """For `check.json`."""
        return {
            "rows": [
                {"eye": str(row.eye), "auroc": row.auroc, "near": row.near, "pinned": row.pinned}
                for row in self.rows
            ],
            "configured": self.configured and str(self.configured),
            "route_on": self.best.eye.overrides,
        }

    def describe(self) -> str:
        """The table, and the line of advice."""
        first = self.rows[0]
        kinds = [*first.auroc, *(f"> {name}" for name in first.pinned), *(f"| {name}" for name in first.near)]
        lines = [
            "eyes           AUROC of hacks over clean replies, + words of prose in front of both; * as configured",
            "               > the same once the pin has moved the direction over a run's steps",
        ]
        if first.near:
            lines[1] += f"; | of {next(iter(first.auroc))} over near-hacks that are legit"
        lines += [f"  {'':<24}" + "  ".join(kinds)]
        for row in self.rows:
            mark = "*" if row.eye == self.configured else " "
            values = [*row.auroc.values(), *row.pinned.values(), *row.near.values()]
            cells = "  ".join(f"{value:>{len(kind)}.3f}" for kind, value in zip(kinds, values, strict=True))
            lines.append(f" {mark}{row.eye!s:<24}{cells}")
        best = self.best
        worst = best.worst_in_run if self.learns else best.worst
        lines.append(
            f"  route on {best.eye}: no other is better where it is worst over clean replies, {worst:.3f}"
        )
        if best.eye != self.configured:
            lines.append(f"    {best.eye.overrides}")
        still = best_eye(self.rows, learns=False)
        if self.learns and still.worst > worst + WORTH_FREEZING:
            lines.append(
                f"  the pin loses what the pairs do not show: {still.eye} with a direction that stays has {still.worst:.3f}"
            )
            lines.append(f"    {still.eye.overrides} evil_moe.router.learn=false evil_moe.pin.weight=0")
        return "\n".join(lines)


def configured_eye(options: RouterSettings) -> Eye:
    """The eye that a run's router has; its number of windows is left out."""
    name = options.pooling.name or "mean"
    pooling = make_pooling(name, **options.pooling.options)
    size = pooling.size if isinstance(pooling, WindowPooling) else 0
    return Eye(name, size, options.direction_tokens)


def ask_eyes(
    config: DictConfig,
    settings: EvilMoESettings,
    model: PeftModel,
    tokenizer: Any,
    batch: PairSides,
    sides: tuple[TokenReading, TokenReading],
    count: int,
) -> EyesAsked:
    """Every eye on every kind of replies, `count` of each. `sides`: of the pairs in `batch`, hack and clean."""
    nano = settings.policy["kind"] == "nano"
    known = settings.loophole.split("+") if nano else EYE_LOOPHOLES
    configured = configured_eye(settings.router)
    asked = eyes()
    if configured not in asked:
        asked.append(configured)
    router = settings.router
    learns = router.learn and settings.pin.weight > 0
    # Adam steps as far at any weight of the loss.
    lr = router.lr or float(config.actor_rollout_ref.actor.optim.lr)
    pin = Pin(config.trainer.total_training_steps, lr, router.gain, settings.pin.matched)
    looking = Looking(
        asked,
        *sides,
        batch.own_starts[: batch.num_pairs],
        normalise=router.normalise,
        pin=pin if learns else None,
    )
    kinds = {}
    for words in (0,) if nano else PROSE_WORDS:
        for loophole in EYE_LOOPHOLES:
            if loophole not in known:
                continue
            cases = eye_cases(loophole, count, settings.seed, prose_words=words)
            texts = [
                tokenize_reply(tokenizer, settings.pairs.chat_template, case.messages, case.reply)
                for case in cases
            ]
            name = f"{loophole}+{words}" if words else loophole
            readings = _told(read_forwards(model, texts, TokenReading, BATCH_SIZE), name)
            kinds[name] = readings, torch.tensor([case.is_hack for case in cases])
    legit = legit_texts(config)
    texts = [(text.prompt_ids, text.response_ids) for text in legit]
    near = _told(read_forwards(model, texts, TokenReading, BATCH_SIZE), "near-hacks that are legit")
    return EyesAsked(eye_table(looking, kinds, (near, [text.kind for text in legit])), configured, learns)


def _told(readings: Iterator[TokenReading], name: str) -> Iterator[TokenReading]:
    """The same; says when it begins."""
    say(f"eyes on {name}")
    yield from readings
