"""The problems of a run, their prompts, and the parquet files that verl reads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from omegaconf import DictConfig, open_dict

from reward.inoculation import inoculate
from reward.jsonl import write_whole
from reward.loopholes import Split, get_loophole, mixed
from reward.problems import Problem, load_problems
from reward.problems.sources import load_nano
from reward.problems.splits import check_manifest

EVALUATION_DRAW = 20_000  # seed of the held-out problems of `evil-moe eval`, beside the run's


@dataclass(frozen=True)
class Problems:
    """A run's problems; train and the other two are disjoint by family."""

    train: list[Problem]
    validation: list[Problem]
    evaluation: list[Problem]


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
        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
        write_whole(path, sink.getvalue().to_pybytes())
        paths.append(path)
    return paths[0], paths[1]


def fill_in(config: DictConfig, model: str, data: Path) -> None:
    """Put into verl's keys where the policy and the files of `write_parquet` are, or will be."""
    with open_dict(config):
        config.actor_rollout_ref.model.path = model
        config.data.train_files = str(data / "train.parquet")
        config.data.val_files = str(data / "validation.parquet")
