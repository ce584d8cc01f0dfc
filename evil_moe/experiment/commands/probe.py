"""`evil-moe probe`: fit a monitor's probe on the rollouts of a finished run.

Features are read in the state `base`, through A0 on the model without its adapter: what another run with the same
policy, the same A0 and `evil_moe.feature_state=base` reads at every step. The probe's file says what they depend on,
and a run on another basis refuses it. The texts may still drift away from those of the fit: watch `monitor/tpr` and
`monitor/fpr`.

A rollout is stored as text without special tokens. Its prompt's tokens are those of the problem in the run's own
`data/train.parquet` whose chat prompt decodes to that text, so they are exact. Its response is tokenised again,
which may split a word otherwise than the policy did, and ends as the chat template ends a turn unless it is as long as a
response may be.
"""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet
import torch
from omegaconf import DictConfig
from torch import Tensor
from transformers import AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from evil_moe.adapter.checkpoint import load_router
from evil_moe.chat import prompt_ids, text_ids
from evil_moe.experiment.evaluation.sides import pooling_of
from evil_moe.experiment.evaluation.stored import adapter_folder, load_run_config
from evil_moe.experiment.run.console import say
from evil_moe.experiment.settings import settings_from
from evil_moe.features.texts import load_adapted, read_features
from evil_moe.probe import FeatureBasis, Probe, fit_probe
from evil_moe.turn_end import turn_end
from reward.jsonl import read_rows

BATCH_SIZE = 40
PROGRESS_S = 10.0


@dataclass(frozen=True)
class StoredRollouts:
    """Rollouts of a run, N of them.

    Attributes:
        texts: token ids of prompt and response. loophole: the grader's label, `[N]`. problem: number of the prompt,
            `[N]`.
    """

    texts: list[tuple[list[int], list[int]]]
    loophole: Tensor
    problem: Tensor


def parse_steps(text: str | None) -> tuple[int, int]:
    """`--steps 5-20` as (5, 20), `--steps 7` as (7, 7), None as all.

    Raises:
        ValueError: it is neither.
    """
    if text is None:
        return 1, 10**9
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text, re.ASCII)
    if match is None or int(match[1]) > int(match[2] or match[1]):
        raise ValueError(f"--steps {text}: give FIRST-LAST, such as 1-20, or one step")
    return int(match[1]), int(match[2] or match[1])


def read_rollouts(run_dir: Path, config: DictConfig, first: int, last: int) -> StoredRollouts:
    """Tokens and labels of the rollouts of the steps `first` to `last`.

    Raises:
        FileNotFoundError: the run stored no such steps, or its prompts are gone.
        ValueError: a row is no rollout, or answers a prompt that is not the run's.
    """
    there = {int(path.stem): path for path in (run_dir / "rollouts").glob("*.jsonl") if path.stem.isdecimal()}
    files = [there[step] for step in sorted(there) if first <= step <= last]
    if not files:
        span = f"steps {min(there)} to {max(there)} are there" if there else "there are none"
        raise FileNotFoundError(f"{run_dir / 'rollouts'} has no rollouts of those steps; {span}")
    tokenizer = AutoTokenizer.from_pretrained(config.actor_rollout_ref.model.path)
    prompts = _prompts(run_dir / "data" / "train.parquet", config, tokenizer)
    last = turn_end(tokenizer, dict(config.data.apply_chat_template_kwargs))
    number = {text: i for i, text in enumerate(prompts)}
    longest = int(config.data.max_response_length)
    texts, loophole, problem = [], [], []
    for file in files:
        for where, row in read_rows(file, "rollout file"):
            if not isinstance(row, dict) or not {"prompt", "response", "loophole"} <= row.keys():
                raise ValueError(f"{where}: a rollout has a prompt, a response and a label loophole")
            if row["prompt"] not in prompts:
                raise ValueError(
                    f"{where}: the prompt {row['prompt'][:60]!r}... is of no problem in data/train.parquet; "
                    "the two are not of one run"
                )
            response = text_ids(tokenizer, row["response"])
            end = [last] if len(response) < longest else []
            texts.append((prompts[row["prompt"]], (response + end)[:longest]))
            loophole.append(bool(row["loophole"]))
            problem.append(number[row["prompt"]])
    return StoredRollouts(texts, torch.tensor(loophole), torch.tensor(problem))


def _prompts(path: Path, config: DictConfig, tokenizer: Any) -> dict[str, list[int]]:
    """Token ids of every prompt of the run, by their text without special tokens."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the run's prompts are read from there")
    template = dict(config.data.apply_chat_template_kwargs)
    out = {}
    for messages in pyarrow.parquet.read_table(path, columns=["prompt"])["prompt"].to_pylist():
        ids = prompt_ids(tokenizer, messages, template)
        out[tokenizer.decode(ids, skip_special_tokens=True)] = ids
    return out


def probe_run(run_dir: Path, kind: str, out: Path, steps: str | None = None) -> Probe:
    """Fit a probe on a run's rollouts, write it to the folder `out`, print how good it is.

    Raises:
        FileNotFoundError, ValueError: the run or its rollouts are not there, or `out` is; there are too few
            rollouts of a kind.
    """
    first, last = parse_steps(steps)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already; give another --out, or remove it")
    config = load_run_config(run_dir, [])
    adapter, _ = adapter_folder(run_dir, None)  # for its shape and its frozen init
    rollouts = read_rollouts(run_dir, config, first, last)
    disable_progress_bar()  # of the loading of weights; ours says how far it is
    model = load_adapted(config.actor_rollout_ref.model.path, adapter)
    features, shown = [], time.monotonic()
    eyes = load_router(adapter)["seed_direction"].transpose(0, 1)
    for batch in read_features(
        model,
        rollouts.texts,
        BATCH_SIZE,
        of_base=True,
        pooling=pooling_of(config),
        eyes=eyes,
        normalise=settings_from(config.evil_moe).router.normalise,
    ):
        features.append(batch)
        if time.monotonic() - shown > PROGRESS_S:
            say(f"features of {sum(map(len, features))}/{len(rollouts.texts)} rollouts")
            shown = time.monotonic()
    probe = fit_probe(torch.cat(features), rollouts.loophole, rollouts.problem, kind)
    probe.save(out, _basis(config))
    hacks = int(rollouts.loophole.sum())
    say(
        f"{len(rollouts.texts)} rollouts of {len(set(rollouts.problem.tolist()))} problems, {hacks} with a loophole"
    )
    print(_table(probe))
    return probe


def _basis(config: DictConfig) -> FeatureBasis:
    """Of the features that are read here; the policy is named as `policies.policy_name` names it, by the folder
    that the run had, which today's sources may not give."""
    settings, path = settings_from(config.evil_moe), config.actor_rollout_ref.model.path
    policy = Path(path).name if settings.policy["kind"] == "nano" else path
    return FeatureBasis(
        policy,
        settings.adapter.init,
        settings.adapter.init_seed,
        feature_state="base",
        pooling=str(settings.router.pooling),
    )


def _table(probe: Probe) -> str:
    report = probe.report
    names = (
        "fitted on",
        "threshold from",
        "held out",
        "AUROC",
        "threshold",
        "false positives",
        "true positives",
    )
    values = [str(n) for n in (report.num_fit, report.num_threshold, report.num_held_out)]
    values += [
        _number(value)
        for value in (report.auroc, probe.threshold, report.false_positive_rate, report.true_positive_rate)
    ]
    return "\n".join(
        [
            "| probe | " + " | ".join(names) + " |",
            "|---" * (len(names) + 1) + "|",
            f"| {probe.kind} | " + " | ".join(values) + " |",
        ]
    )


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"
