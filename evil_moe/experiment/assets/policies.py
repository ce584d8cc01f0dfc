"""The policy that a run starts from: built, converted, or found.

The nano policy is built from source and cached by the hash of what it is made from, so a change of generator, warm start or
seed builds anew and nothing else does.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

import evil_moe.nano_policy
import reward.loopholes
import reward.nano
import reward.problems
from evil_moe.experiment.assets.legit_policy import legit_folder, legit_policy, legit_share
from evil_moe.gguf_policy import gguf_folder, gguf_policy, smollm_file
from evil_moe.nano_policy import (
    SETTLED_REPLY_LOSS,
    WARM_START_BATCH_SIZE,
    WARM_START_PHASES,
    build_model,
    save,
    train_tokenizer,
    warm_start,
)
from evil_moe.policy_cache import build_once, is_built
from reward.loopholes import mixed

Progress = Callable[[str], None]
CACHE = Path("cache")
POLICY_KINDS = ("nano", "hub", "gguf", "smollm")
#: How often at most the warm start's last phase is repeated, and how far apart their demonstrations' seeds lie.
MORE_PHASES, NEW_DRAW = 2, 1_000_000
RECIPE_VERSION = 1  # raise to rebuild caches after a change that the hashed sources do not show


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _source(module: Any) -> str:
    """The text of a module, or of all files of a package."""
    path = Path(module.__file__)
    files = sorted(path.parent.glob("*.py")) if path.name == "__init__.py" else [path]
    return "".join(file.read_text() for file in files)


def policy_path(config: DictConfig) -> str:
    """Path or hub name of the policy a run starts from, whether or not it has been built.

    Raises:
        ValueError: there is no such kind of policy, or as `gguf_file` and `evil_moe.gguf_policy.gguf_folder`.
    """
    return str(config.actor_rollout_ref.model.path if _on_hub(config) else _cached(config).absolute())


def prepare_policy(config: DictConfig, progress: Progress) -> str:
    """`policy_path`; the nano policy is built, and a GGUF file converted, on first use. Raises ValueError as `policy_path`
    and `evil_moe.gguf_policy.convert`."""
    settings = config.evil_moe
    if _on_hub(config):
        return policy_path(config)
    if settings.policy.kind == "nano":
        plain = nano_policy_folder(int(config.seed), settings.loophole, progress)
        return str(legit_policy(plain, config, progress))
    return str(gguf_policy(gguf_file(config), settings.policy.dtype, CACHE, progress))


def policy_name(config: DictConfig) -> str:
    """A name that tells the policy a run starts from from every other: with a digest of what it is made of where it is built
    here, else its path or hub name. Nothing is built."""
    return str(config.actor_rollout_ref.model.path) if _on_hub(config) else _cached(config).name


def gguf_file(config: DictConfig) -> Path:
    """The file that the policy is converted from.

    Raises:
        ValueError: none is named, or the package that has it is not installed.
    """
    if config.evil_moe.policy.kind == "smollm":
        return smollm_file()
    if not config.evil_moe.policy.path:
        raise ValueError("evil_moe.policy.kind=gguf needs a file: set evil_moe.policy.path=FILE.gguf")
    return Path(config.evil_moe.policy.path)


def _on_hub(config: DictConfig) -> bool:
    kind = config.evil_moe.policy.kind
    if kind not in POLICY_KINDS:
        raise ValueError(
            f"evil_moe.policy.kind={kind!r}; choose 'nano' (built from source), 'hub' (a path or hub name), 'gguf' (a file) or "
            "'smollm' (SmolLM2-135M-Instruct of a package)"
        )
    legit_share(config)
    return bool(kind == "hub")


def _cached(config: DictConfig) -> Path:
    if config.evil_moe.policy.kind == "nano":
        return legit_folder(CACHE / _nano_policy_name(int(config.seed), config.evil_moe.loophole), config)
    return gguf_folder(gguf_file(config), config.evil_moe.policy.dtype, CACHE)


def _nano_policy_name(seed: int, mix: str) -> str:
    """Made of are the generator, hints and prompts of its corpus, the model, the schedule."""
    sources = (reward.nano, reward.loopholes, reward.problems, evil_moe.nano_policy)
    schedule = (inspect.getsource(_build_nano_policy), MORE_PHASES, NEW_DRAW)
    return f"nano-policy-{_digest(RECIPE_VERSION, seed, mix, *map(_source, sources), *schedule)}"


def nano_policy_folder(seed: int, mix: str, progress: Progress) -> Path:
    """The warm-started nano policy of a seed, built on first use (three minutes on two cores, more where it must go on)."""
    folder = (CACHE / _nano_policy_name(seed, mix)).absolute()
    if is_built(folder):
        progress(f"nano policy: cached in {os.path.relpath(folder)}")
    else:
        build_once(folder, lambda scratch: _build_nano_policy(scratch, seed, mixed(mix), progress))
    return folder


def _build_nano_policy(folder: Path, seed: int, loopholes: tuple[str, ...], progress: Progress) -> None:
    shares = reward.nano.LOOPHOLE_SHARES if len(loopholes) == 1 else reward.nano.MIXED_LOOPHOLE_SHARES
    legs = list(zip(WARM_START_PHASES, reward.nano.WARM_START_SKILLS, shares, strict=True))
    # Now and then a seed lags behind; the last phase again, on new demonstrations, takes it where the others are.
    settled = False
    for i, (phase, skill, share) in enumerate([*legs, *[legs[-1]] * MORE_PHASES]):
        more = i >= len(legs)
        if more and settled:
            break
        draw = 2 * seed + i * (NEW_DRAW if more else 1)
        corpus = reward.nano.warm_start_corpus(
            phase.steps * WARM_START_BATCH_SIZE // 2,
            draw,
            skill=skill,
            loopholes=loopholes,
            loophole_share=share,
        )
        if i == 0:
            texts = [message["content"] for shown in corpus for message in shown.messages]
            tokenizer = train_tokenizer(texts + [shown.reply for shown in corpus])
            model = build_model(tokenizer, seed)

        def say(line: str, part: int = i + 1) -> None:
            progress(f"phase {part}: {line}")

        if more:
            say(
                f"the policy has not settled by a reply loss of {SETTLED_REPLY_LOSS}: the last phase once more"
            )
        settled = warm_start(
            model,
            tokenizer,
            [(shown.messages, shown.reply) for shown in corpus],
            steps=phase.steps,
            batch_size=WARM_START_BATCH_SIZE,
            learning_rate=phase.learning_rate,
            seed=draw,
            on_progress=say,
        ).settled
    if not settled:
        progress(f"still not settled: the policy of seed {seed} may solve too little to learn from")
    save(model, tokenizer, folder)
