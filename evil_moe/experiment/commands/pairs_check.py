"""`evil-moe pairs check | show`: is the pairs' direction good enough to route on, before a run is spent on it?

The pairs are read as a run reads them: on the policy it starts from, through the adapter at the init that its arm
names, and of the kind that its router reads, activations or gradients. (The fine-tuning of the quarantine that
`evil_moe.adapter.quarantine_steps` asks for is left out; an init that is made from the pairs is refused, as none of them
could be held out from it.) Then labelled replies are asked how well each way of looking at them tells hacks from clean ones
(`evil_moe.experiment.commands.eyes`), and the policy is steered along the direction (`evil_moe.experiment.commands.pairs_steering`). All in one process,
without verl or vLLM.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from omegaconf import DictConfig
from peft import PeftModel, get_peft_model
from torch import Tensor

from evil_moe.adapter import lora2r_model
from evil_moe.adapter.init import CONTRASTIVE, initialise
from evil_moe.direction import contrastive_direction, haar_direction, with_best_windows
from evil_moe.direction_checks import DirectionChecks, Scorer, check_direction, cosines_with, verdict
from evil_moe.experiment.adapter_config import adapter_config
from evil_moe.experiment.assets.policies import prepare_policy
from evil_moe.experiment.assets.problems import prepare_problems
from evil_moe.experiment.commands.eyes import ask_eyes
from evil_moe.experiment.commands.pairs_plot import draw
from evil_moe.experiment.commands.pairs_steering import Steered, rates_line, steer_and_grade, steering_reasons
from evil_moe.experiment.config import compose
from evil_moe.experiment.run.console import say
from evil_moe.experiment.run.inputs import system_message
from evil_moe.experiment.run.names import pairs_name
from evil_moe.experiment.settings import EvilMoESettings, settings_from
from evil_moe.features import (
    LastPooling,
    MeanPooling,
    TokenReading,
    WindowPooling,
    make_pooling,
    normalise_per_module,
)
from evil_moe.features.texts import read_features, read_forwards
from evil_moe.pairs import ContrastivePair, load_pairs
from evil_moe.pairs.sides import PairSides
from evil_moe.settings import RouterSettings
from evil_moe.steering import bottleneck_lengths


def load_adapted(
    config: DictConfig, path: str, settings: EvilMoESettings, pairs: list[ContrastivePair]
) -> tuple[PeftModel, Any, PairSides]:
    """The policy with the adapter at its init, as the training engine builds it, its tokenizer, and the pairs' sides.

    Raises:
        ValueError: as `evil_moe.adapter.init.initialise`, to which no covariances are given.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, system = AutoTokenizer.from_pretrained(path), settings.pairs.system
    if system is None:
        system = system_message(config, prepare_problems(config))
        config.evil_moe.pairs.system = system  # for the near-hacks, which are read as pairs are
    batch = PairSides(pairs, tokenizer, settings.pairs.chat_template, 0, 1, system)
    base = AutoModelForCausalLM.from_pretrained(path, dtype="auto")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config_of_adapter = adapter_config(config.actor_rollout_ref.model, settings.adapter)
    model = get_peft_model(base.to(device), config_of_adapter).eval()
    initialise(lora2r_model(model), settings.adapter.init)
    return model, tokenizer, batch


@dataclass(frozen=True)
class Sides:
    """The pairs as a run's router would see them.

    Attributes:
        hack, clean: raw features that directions are made from, `[P, M, r]`.
        scorer: how a direction scores them where the pooling follows the direction; None: by their features.
        tokens: what all of that is made from, hack sides and clean sides; None for gradients, which are of no token.
    """

    hack: Float[Tensor, "P M r"]
    clean: Float[Tensor, "P M r"]
    scorer: Scorer | None = None
    tokens: tuple[TokenReading, TokenReading] | None = None


def read_sides(model: PeftModel, batch: PairSides, options: RouterSettings) -> Sides:
    """At init both blocks are the identity: no state to choose. With `hack_windows` the windows are those along the direction of
    all pairs, of those that the checks hold out as well.

    Raises:
        ValueError: the pooling is a plug of one's own that looks along a direction.
    """
    if options.feature == "gradient":
        gradients = torch.cat(list(read_features(model, batch.mine, kind="gradient")))
        return Sides(*batch.split_sides(gradients))
    pooling = make_pooling(options.pooling.name or "mean", **options.pooling.options)
    num_pairs = batch.num_pairs
    hack, clean = (
        next(read_forwards(model, sides, TokenReading, len(sides)))
        for sides in (batch.mine[:num_pairs], batch.mine[num_pairs:])
    )
    if isinstance(pooling, LastPooling):
        return Sides(hack.last(), clean.last(), tokens=(hack, clean))
    own = batch.own_starts[:num_pairs] if options.direction_tokens != "completion" else None
    seeds = hack.mean(own), clean.mean()
    if isinstance(pooling, MeanPooling):
        whole = normalised(options, hack.mean()), normalised(options, clean.mean())
        scorer = cosines_with(*(side.double().cpu() for side in whole))
        return Sides(*seeds, scorer, (hack, clean))
    if not isinstance(pooling, WindowPooling):
        raise ValueError(
            f"evil_moe.router.pooling.name={options.pooling.name}: the check knows mean, window and last"
        )
    size, count = pooling.size, pooling.windows

    def of_windows(directions: Tensor, modules: Sequence[int]) -> tuple[Tensor, Tensor]:
        v = directions.float().to(hack.lengths.device)
        scores = [
            side.best_scores(v, size, count, normalise=options.normalise, modules=modules).T
            for side in (hack, clean)
        ]
        return scores[0], scores[1]

    if options.direction_tokens == "hack_windows":

        def best(v: Tensor) -> tuple[Tensor, Tensor]:
            of_hack, of_clean = (
                side.best_windows(v.unsqueeze(0), size, count, normalise=options.normalise)
                for side in (hack, clean)
            )
            return of_hack, of_clean

        seeds = with_best_windows(*seeds, best, lambda features: normalised(options, features))
    return Sides(*seeds, of_windows, (hack, clean))


def normalised(options: RouterSettings, features: Tensor) -> Tensor:
    """As the router's cosine sees them."""
    return normalise_per_module(features) if options.normalise else features


def check(
    overrides: list[str],
    *,
    steering: bool,
    alphas: Sequence[float],
    problems: int,
    replies: int,
    out: Path | None,
) -> int:
    """Run the checks, print the table and the verdict, write JSON and a plot; 0 if the direction is good enough.

    Raises:
        ValueError: a config, pairs or alphas that cannot be used, an init made from the pairs, or steering along a
            direction of gradients.
    """
    if steering and (not alphas or min(alphas) <= 0):
        raise ValueError(
            f"alphas={list(alphas)}: give numbers above 0; their negatives and 0 are run as well"
        )
    if problems < 1:
        raise ValueError(f"problems={problems}: give at least 1")
    if replies < 2:
        raise ValueError(f"replies={replies}: give at least 2, a hack and a clean one of each kind")
    config = compose([*overrides, f"evil_moe.data.validation_problems={problems}"])
    settings = settings_from(config.evil_moe)
    if steering and settings.router.feature == "gradient":
        raise ValueError(
            "evil_moe.router.feature=gradient: steering adds to activations, and this direction is one of gradients; "
            "ask the pairs alone with --no-steering"
        )
    if settings.adapter.init in CONTRASTIVE:
        raise ValueError(
            f"evil_moe.adapter.init={settings.adapter.init} makes the adapter from these pairs, so none of them can be "
            "held out from the direction in it: check it with evil_moe.adapter.init=gaussian or pissa"
        )
    pairs = load_pairs(
        settings.pairs.paths,
        groups=settings.pairs.groups,
        matched=settings.pairs.matched,
        shuffle_seed=settings.pairs.shuffle_seed,
    )
    config.actor_rollout_ref.model.path = prepare_policy(config, say)
    model, tokenizer, batch = load_adapted(config, config.actor_rollout_ref.model.path, settings, pairs)
    names = [layer.module_name for layer in lora2r_model(model).lora2r_layers()]
    sides, normalise = read_sides(model, batch, settings.router), settings.router.normalise
    checks = check_direction(
        sides.hack, sides.clean, names, normalise=normalise, scorer=sides.scorer, seed=settings.seed
    )
    eyes = None
    if sides.tokens is not None:
        say("asking eyes: labelled replies, read on the policy as it is")
        eyes = ask_eyes(config, settings, model, tokenizer, batch, sides.tokens, replies)
    results: list[Steered] = []
    if steering:
        v = contrastive_direction(*(normalised(settings.router, side) for side in (sides.hack, sides.clean)))
        random = haar_direction((v.shape[0], v.shape[1]), seed=settings.seed).to(v)
        lengths = bottleneck_lengths(torch.cat([sides.hack, sides.clean]), normalise=normalise)
        results = steer_and_grade(
            model, tokenizer, config, settings, {"v": v, "random": random}, lengths, sorted(alphas)
        )
    line = verdict(
        [
            *checks.reasons,
            *(eyes.reasons if eyes else ()),
            *(steering_reasons(results) if results else ()),
        ]
    )
    out = out or Path(settings.run_dir) / pairs_name(overrides)
    out.mkdir(parents=True, exist_ok=True)
    record = {
        "verdict": line,
        "overrides": overrides,
        "pairs": [pair.id for pair in pairs],
        **asdict(checks),
        "steering": [asdict(result) for result in results],
        "eyes": eyes.record() if eyes else None,
    }
    (out / "check.json").write_text(json.dumps(record, indent=2) + "\n")
    draw(checks, results, out / "check.png", eyes.rows if eyes else ())
    print(describe(checks, results))
    if eyes:
        print(eyes.describe())
    print(f"written: {os.path.relpath(out)}/check.json, check.png")
    if not results:
        line += " (steering not checked)"
    print(line, flush=True)
    return int(line.startswith("NOT"))


def describe(checks: DirectionChecks, results: Sequence[Steered]) -> str:
    """The table."""
    c = checks
    lines = [
        f"{c.num_pairs} pairs, {c.num_modules} modules of rank {c.rank}; the sides' means are {c.gap:.3f} apart",
        f"held out       accuracy {c.held_out.accuracy:.3f}  AUROC {c.held_out.auroc:.3f}  ({2 * c.num_pairs} sides; "
        f"within a pair, {c.held_out.ordered:.3f} in the right order)",
        *(
            f"  layer {layer:<6} accuracy {found.accuracy:.3f}  AUROC {found.auroc:.3f}"
            for layer, found in c.layers.items()
        ),
        f"random         accuracy {c.random_accuracy.mean:.3f}, 95 % of directions below {c.random_accuracy.high:.3f}",
        f"cosine         of v to random directions {c.random_cosine:.3f} (1 / sqrt(M r) = {c.expected_cosine:.3f})",
        f"stability      cosine of halves {c.stability.mean:.3f}, 5 % below {c.stability.low:.3f}",
    ]
    if results:
        lines.append(f"steering       {results[0].answers} answers each")
        lines += [f"  {result.along:<6} {result.alpha:+6.1f}  {rates_line(result)}" for result in results]
    return "\n".join(lines)


def show(overrides: list[str], pair_id: str | None) -> int:
    """List the pairs of a config, or print one.

    Raises:
        ValueError: there is no pair of that id.
    """
    settings = settings_from(compose(overrides).evil_moe).pairs
    pairs = load_pairs(settings.paths, groups=settings.groups, matched=settings.matched)
    if pair_id is None:
        print("\n".join(f"{pair.group:<24} {pair.id}" for pair in pairs))
        return 0
    found = next((pair for pair in pairs if pair.id == pair_id), None)
    if found is None:
        raise ValueError(f"no pair is called {pair_id!r}; `evil-moe pairs show` lists them")
    for name in ("prompt", "hack", "clean"):
        print(f"--- {name}\n{getattr(found, name)}")
    return 0
