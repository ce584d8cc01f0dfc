"""From a config to files: the policy, the problems, and the parquet files that verl reads.

Nano assets are built from source and cached by the hash of what they are made from, so a change of generator,
warm start or seed builds anew and nothing else does.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from omegaconf import DictConfig, open_dict

import evil_moe.nano_policy
import reward.loopholes
import reward.nano
import reward.problems
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
from recipe.legit_policy import legit_folder, legit_policy, legit_share
from reward.inoculation import inoculate
from reward.loopholes import Split, get_loophole, mixed
from reward.problems import Problem, load_problems
from reward.problems.sources import load_nano
from reward.problems.splits import check_manifest

Progress = Callable[[str], None]
CACHE = Path("cache")
EVALUATION_DRAW = 20_000  # seed of the held-out problems of `evil-moe eval`, beside the run's
POLICY_KINDS = ("nano", "hub", "gguf", "smollm")
#: How often at most the warm start's last phase is repeated, and how far apart their demonstrations' seeds lie.
MORE_PHASES, NEW_DRAW = 2, 1_000_000
RECIPE_VERSION = 1  # raise to rebuild caches after a change that the hashed sources do not show


@dataclass(frozen=True)
class Problems:
    """A run's problems; train and the other two are disjoint by family."""

    train: list[Problem]
    validation: list[Problem]
    evaluation: list[Problem]


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _source(module: Any) -> str:
    """The text of a module, or of all files of a package."""
    path = Path(module.__file__)
    files = sorted(path.parent.glob("*.py")) if path.name == "__init__.py" else [path]
    return "".join(file.read_text() for file in files)


def prepare_problems(config: DictConfig) -> Problems:
    """Draw or load the problems of a config.

    Raises:
        ValueError, FileNotFoundError: a number of problems is none, or a problem file is not named, missing or malformed;
            names key or file, line and reason.
    """
    data, seed = config.evil_moe.data, int(config.seed)
    for name in ("train_problems", "validation_problems", "eval_problems"):
        number = data.get(name)
        if not (type(number) is int and number >= 1) and not (number is None and data.source != "nano"):
            all_of_them = ", or null for all of the file" if data.source != "nano" else ""
            raise ValueError(f"evil_moe.data.{name}={number}: give a whole number from 1{all_of_them}")
    if data.source == "nano":
        return Problems(
            train=load_nano("train", data.train_problems, seed),
            validation=load_nano("heldout", data.validation_problems, 10_000 + seed),
            evaluation=load_nano("heldout", data.eval_problems, EVALUATION_DRAW + seed),
        )
    if data.source == "files":
        held_out, train = _load_checked(config, "evaluation"), _load_checked(config, "train")
        if shared := {problem.id for problem in train} & {problem.id for problem in held_out}:
            raise ValueError(
                f"{len(shared)} problems of evil_moe.data.train={data.train} are in evil_moe.data.evaluation={data.evaluation} as "
                f"well, e.g. id {min(shared, key=str)}: held-out problems must be others (evil-moe data prepare splits a file)"
            )
        return Problems(
            train=train,
            validation=held_out[: data.validation_problems],
            evaluation=held_out[: data.eval_problems],
        )
    raise ValueError(f"evil_moe.data.source={data.source!r}; choose 'nano' or 'files'")


def _load_checked(config: DictConfig, split: str) -> list[Problem]:
    path = config.evil_moe.data.get(split)
    if not path:
        raise ValueError(f"evil_moe.data.source=files needs a problem file: set evil_moe.data.{split}=PATH")
    problems = load_problems(path)
    check_manifest(Path(path), problems)
    return problems


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


def loophole_of(index: int, mix: str) -> str:
    """The loophole of the problem at `index` of its split: those of a mix take turns."""
    names = mixed(mix)
    return names[index % len(names)]


def prompt_messages(
    problem: Problem, loophole: str, markers: Split = "train", inoculation: str = "none"
) -> list[dict[str, str]]:
    """The problem's chat prompt with the loophole's hint in it, and an inoculation, which evaluation goes without."""
    messages = inoculate(list(get_loophole(loophole).edit_prompt(problem, markers)), inoculation)
    return [{"role": m["role"], "content": m["content"]} for m in messages]


def _row(
    problem: Problem, index: int, mix: str, source: str, adapter: str, inoculation: str = "none"
) -> dict[str, Any]:
    loophole = loophole_of(index, mix)
    return {
        "data_source": source,
        "prompt": prompt_messages(problem, loophole, inoculation=inoculation),
        # All that the grader is told: the problem, and the loophole that the prompt discloses.
        "reward_model": {
            "style": "rule",
            "ground_truth": json.dumps(problem.to_row()),
            "loophole": loophole,
        },
        # An empty adapter: the agent loop's mixture decides.
        "extra_info": {"index": index, "problem_id": str(problem.id), "adapter": adapter},
    }


def verl_rows(problems: Problems, mix: str, inoculation: str) -> dict[str, list[dict[str, Any]]]:
    """Rows of verl's two files. Validation rows come twice, ON (`full`) and OFF (`deployed`), under two data sources:
    one validation batch gives both curves."""
    return {
        "train": [
            _row(problem, i, mix, "train", "", inoculation) for i, problem in enumerate(problems.train)
        ],
        "validation": [
            _row(problem, i, mix, f"heldout_{side}", adapter)
            for side, adapter in (("on", "full"), ("off", "deployed"))
            for i, problem in enumerate(problems.validation)
        ],
    }


def write_parquet(problems: Problems, mix: str, folder: Path, inoculation: str = "none") -> tuple[Path, Path]:
    """verl's train and validation files; `mix` names one loophole or several, `inoculation` edits train prompts."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, rows in verl_rows(problems, mix, inoculation).items():
        path = folder / f"{name}.parquet"
        partial = path.with_suffix(".partial")
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), partial)
        partial.replace(path)
        paths.append(path)
    return paths[0], paths[1]


def fill_in(config: DictConfig, model: str, data: Path) -> None:
    """Put into verl's keys where the policy and the files of `write_parquet` are, or will be."""
    with open_dict(config):
        config.actor_rollout_ref.model.path = model
        config.data.train_files = str(data / "train.parquet")
        config.data.val_files = str(data / "validation.parquet")
