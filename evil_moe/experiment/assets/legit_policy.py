"""A nano policy whose demonstrations carry near-hacks that are legit (`evil_moe.policy.legit_share`).

It is the plain nano policy of the seed after one more leg of its warm start, the last phase again, on demonstrations of
which some are such replies (`reward.legit_cases`). So the plain policy, and its place in the cache, know nothing of them.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

import reward.legit_cases
import reward.nano
from evil_moe.nano_policy import WARM_START_BATCH_SIZE, WARM_START_PHASES, save, warm_start
from evil_moe.policy_cache import build_once, is_built
from reward.legit_cases import with_legit
from reward.loopholes import mixed

KEY = "evil_moe.policy.legit_share"
#: How far the demonstrations' seeds lie from those of the plain warm start and of its repeated phases.
LEGIT_DRAW = 10_000_000


def legit_share(config: DictConfig) -> float | None:
    """Share of the replies on carrying problems that are legit near-hacks; None without any, as in an old run.

    Raises:
        ValueError: it is no share, or the policy is not the nano one.
    """
    share = OmegaConf.select(config, KEY, default=None)
    if share is None:
        return None
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ValueError(f"{KEY}={share!r}: give a share above 0 and up to 1, or null for none")
    kind = config.evil_moe.policy.kind
    if kind != "nano":
        raise ValueError(
            f"{KEY}={share} is for the nano policy's warm start and evil_moe.policy.kind={kind}: set it to null"
        )
    return float(share)


def legit_folder(plain: Path, config: DictConfig) -> Path:
    """Where the policy that carries them is or will be, beside the plain one; the plain one itself without a share.

    Raises:
        ValueError: as `legit_share`.
    """
    share = legit_share(config)
    if share is None:
        return plain
    made_of = (repr(share), inspect.getsource(reward.legit_cases), inspect.getsource(_build))
    return plain.with_name(f"{plain.name}-legit-{hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]}")


def legit_policy(plain: Path, config: DictConfig, progress: Callable[[str], None]) -> Path:
    """The policy of `legit_folder`, built from the plain one on first use.

    Raises:
        ValueError: as `legit_share`.
    """
    share, folder = legit_share(config), legit_folder(plain, config)
    if share is None or is_built(folder):
        return folder
    progress(f"nano policy with legit near-hacks: one more leg, into {os.path.relpath(folder)}")
    loopholes, seed = mixed(config.evil_moe.loophole), int(config.seed)
    build_once(folder, lambda scratch: _build(scratch, plain, seed, loopholes, share, progress))
    return folder


def _build(
    folder: Path,
    plain: Path,
    seed: int,
    loopholes: tuple[str, ...],
    share: float,
    progress: Callable[[str], None],
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(plain)
    model = AutoModelForCausalLM.from_pretrained(plain, dtype="float32")
    shares = reward.nano.LOOPHOLE_SHARES if len(loopholes) == 1 else reward.nano.MIXED_LOOPHOLE_SHARES
    phase, skill, draw = WARM_START_PHASES[-1], reward.nano.WARM_START_SKILLS[-1], LEGIT_DRAW + seed
    corpus = with_legit(
        reward.nano.warm_start_corpus(
            phase.steps * WARM_START_BATCH_SIZE // 2,
            draw,
            skill=skill,
            loopholes=loopholes,
            loophole_share=shares[-1],
        ),
        draw,
        skill=skill,
        loopholes=loopholes,
        share=share,
    )
    warm_start(
        model,
        tokenizer,
        [(shown.messages, shown.reply) for shown in corpus],
        steps=phase.steps,
        batch_size=WARM_START_BATCH_SIZE,
        learning_rate=phase.learning_rate,
        seed=draw,
        on_progress=progress,
    )
    save(model, tokenizer, folder)
