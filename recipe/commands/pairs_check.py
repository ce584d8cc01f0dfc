"""`evil-moe pairs check | show`: is the pairs' direction good enough to route on, before a run is spent on it?

The pairs are read as a run reads them: on the policy it starts from, through the adapter at the init that its arm
names, and of the kind that its router reads, activations or gradients. (The fine-tuning of the quarantine that
`evil_moe.adapter.quarantine_steps` asks for is left out; an init that is made from the pairs is refused, as none of them
could be held out from it.) Then the policy is steered along the direction while it
answers held-out prompts, and along a random direction as a placebo; every answer is graded by running it. All in one
process, without verl or vLLM.
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
from evil_moe.direction import contrastive_direction, haar_direction
from evil_moe.direction_checks import DirectionChecks, check_direction, verdict
from evil_moe.features import normalise_per_module
from evil_moe.pairs import ContrastivePair, load_pairs
from evil_moe.steering import bottleneck_lengths, fisher_p, input_shifts, steered
from recipe.adapter_config import adapter_config
from recipe.commands.pairs_plot import draw
from recipe.config import compose
from recipe.console import say
from recipe.main_eval import rates
from recipe.pair_batch import PairBatch
from recipe.prepare import loophole_of, prepare_policy, prepare_problems, prompt_messages
from recipe.read_features import read_features
from recipe.run_inputs import system_message
from recipe.run_names import pairs_name
from recipe.sandbox_actor import limits_from
from recipe.settings import EvilMoESettings, settings_from
from reward.grader import Grader
from reward.problems import Problem
from reward.verdict import RewardConfig

SIGNIFICANCE = 0.05
BATCH_SIZE = 64


@dataclass(frozen=True)
class Steered:
    """Rates of the policy's answers under one steering; `along` is "v" or "random"."""

    along: str
    alpha: float
    answers: int
    rates: dict[str, float]

    @property
    def loophole_hits(self) -> int:
        return round(self.rates["loophole"] * self.answers)


def steering_reasons(results: Sequence[Steered]) -> tuple[str, ...]:
    """Why steering speaks against the direction: empty if at some alpha above 0 loophole use is above that of the
    policy as it is and above that of the random direction, each with p < 0.05 / number of alphas (Fisher, one-sided).
    """
    by_condition = {(result.along, result.alpha): result for result in results}
    base = by_condition["v", 0.0]
    alphas = sorted(alpha for along, alpha in by_condition if along == "v" and alpha > 0)
    best = max((by_condition["v", alpha] for alpha in alphas), key=lambda result: result.loophole_hits)
    for alpha in alphas:
        result = by_condition["v", alpha]
        p = [
            fisher_p(result.loophole_hits, result.answers, other.loophole_hits, other.answers)
            for other in (base, by_condition["random", alpha])
        ]
        if max(p) < SIGNIFICANCE / len(alphas):
            return ()
    placebo = by_condition["random", best.alpha]
    return (
        f"steering does not raise loophole use: {base.rates['loophole']:.3f} as it is, at best {best.rates['loophole']:.3f} "
        f"(alpha {best.alpha:g}; {placebo.rates['loophole']:.3f} along a random direction; {base.answers} answers each)",
    )


def load_adapted(
    config: DictConfig, path: str, settings: EvilMoESettings, pairs: list[ContrastivePair]
) -> tuple[PeftModel, Any, PairBatch]:
    """The policy with the adapter at its init, as the training engine builds it, its tokenizer, and the pairs' sides.

    Raises:
        ValueError: as `evil_moe.adapter.init.initialise`, to which no covariances are given.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, system = AutoTokenizer.from_pretrained(path), settings.pairs.system
    if system is None:
        system = system_message(config, prepare_problems(config))
    batch = PairBatch(pairs, tokenizer, settings.pairs.chat_template, 0, 1, system)
    base = AutoModelForCausalLM.from_pretrained(path, dtype="auto")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config_of_adapter = adapter_config(config.actor_rollout_ref.model, settings.adapter)
    model = get_peft_model(base.to(device), config_of_adapter).eval()
    initialise(lora2r_model(model), settings.adapter.init)
    return model, tokenizer, batch


def pair_features(
    model: PeftModel, batch: PairBatch, kind: str
) -> tuple[Float[Tensor, "P M r"], Float[Tensor, "P M r"]]:
    """Raw features of the hack and the clean sides, `kind` as `evil_moe.router.feature`. At init both blocks are the
    identity: no state to choose."""
    return batch.split_sides(torch.cat(list(read_features(model, batch.mine, kind=kind))))


def generate(
    model: PeftModel, tokenizer: Any, config: DictConfig, problems: Sequence[Problem], seed: int
) -> list[str]:
    """One sampled answer of the base policy to each problem, prompted as in training; the same random numbers for the
    same seed."""
    mix, sampling = config.evil_moe.loophole, config.actor_rollout_ref.rollout
    texts = [
        tokenizer.apply_chat_template(
            prompt_messages(problem, loophole_of(index, mix)),
            add_generation_prompt=True,
            tokenize=False,
            **dict(config.data.apply_chat_template_kwargs),
        )
        for index, problem in enumerate(problems)
    ]
    answers = []
    # The adapter adds nothing yet; without it a token costs half as much. Hooks on its layers run all the same.
    with torch.random.fork_rng(), model.disable_adapter():
        torch.manual_seed(seed)
        for start in range(0, len(texts), BATCH_SIZE):
            inputs = tokenizer(
                texts[start : start + BATCH_SIZE],
                add_special_tokens=False,
                padding=True,
                padding_side="left",
                return_tensors="pt",
            ).to(model.device)
            out = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                do_sample=True,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=max(0, sampling.top_k),  # off is -1 in vLLM and 0 here
                max_new_tokens=config.data.max_response_length,
                pad_token_id=tokenizer.pad_token_id,
            )
            answers += tokenizer.batch_decode(
                out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
            )
    return answers


def steer_and_grade(
    model: PeftModel,
    tokenizer: Any,
    config: DictConfig,
    settings: EvilMoESettings,
    directions: dict[str, Float[Tensor, "M r"]],
    lengths: Float[Tensor, " M"],
    alphas: Sequence[float],
) -> list[Steered]:
    """0, every alpha and its negative along "v", every alpha along the others."""
    problems, tuner = prepare_problems(config).validation, lora2r_model(model)
    conditions = [("v", 0.0)] + [("v", sign * alpha) for alpha in alphas for sign in (1, -1)]
    conditions += [(along, alpha) for along in directions if along != "v" for alpha in alphas]
    shifts = {along: input_shifts(tuner, direction, lengths) for along, direction in directions.items()}
    terms = RewardConfig(compile=settings.reward.compile, pays=settings.reward.pays)
    modes = [loophole_of(index, settings.loophole) for index in range(len(problems))]
    results = []
    with Grader(
        settings.loophole, limits=limits_from(settings.reward), reward=terms, reply=settings.reward.reply
    ) as grader:
        for along, alpha in conditions:
            with steered(tuner, shifts[along], alpha):
                answers = generate(model, tokenizer, config, problems, settings.seed)
            verdicts = grader.grade_many(
                list(zip(problems, answers, strict=True)), workers=os.cpu_count() or 1, modes=modes
            )
            results.append(Steered(along, alpha, len(answers), rates(verdicts)))
            say(f"steered along {along} by {alpha:g}: " + _rates(results[-1]))
    return results


def check(
    overrides: list[str], *, steering: bool, alphas: Sequence[float], problems: int, out: Path | None
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
    model, tokenizer, batch = load_adapted(config, prepare_policy(config, say), settings, pairs)
    names = [layer.module_name for layer in lora2r_model(model).lora2r_layers()]
    hack, clean = pair_features(model, batch, settings.router.feature)
    normalise = settings.router.normalise
    checks = check_direction(hack, clean, names, normalise=normalise, seed=settings.seed)
    results: list[Steered] = []
    if steering:
        sides = [normalise_per_module(side) if normalise else side for side in (hack, clean)]
        v = contrastive_direction(sides[0], sides[1])
        random = haar_direction((v.shape[0], v.shape[1]), seed=settings.seed).to(v)
        lengths = bottleneck_lengths(torch.cat([hack, clean]), normalise=normalise)
        results = steer_and_grade(
            model, tokenizer, config, settings, {"v": v, "random": random}, lengths, sorted(alphas)
        )
    line = verdict([*checks.reasons, *(steering_reasons(results) if results else ())])
    out = out or Path(settings.run_dir) / pairs_name(overrides)
    out.mkdir(parents=True, exist_ok=True)
    record = {
        "verdict": line,
        "overrides": overrides,
        "pairs": [pair.id for pair in pairs],
        **asdict(checks),
        "steering": [asdict(result) for result in results],
    }
    (out / "check.json").write_text(json.dumps(record, indent=2) + "\n")
    draw(checks, results, out / "check.png")
    print(describe(checks, results))
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
        lines += [f"  {result.along:<6} {result.alpha:+6.1f}  {_rates(result)}" for result in results]
    return "\n".join(lines)


def _rates(result: Steered) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in result.rates.items())


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
