"""What a run reads beside its config, written into the config: a resumed run must read the same, whatever its files' names
say."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig, open_dict

from evil_moe.experiment.assets.problems import Problems, verl_rows
from evil_moe.experiment.settings import settings_from
from evil_moe.pairs import load_pairs
from evil_moe.probe import PROBE_FILE
from reward.problems import checksum

_DIGITS = 16


def system_message(config: DictConfig, problems: Problems) -> str:
    """The system message that most of the run's rollouts have, an inoculation in it; empty if most have none."""
    settings = config.evil_moe
    rows = verl_rows(problems, settings.loophole, settings.prompt.inoculation)["train"]
    first = [row["prompt"][0] for row in rows]
    said = [message["content"] if message["role"] == "system" else "" for message in first]
    return Counter(said).most_common(1)[0][0]


def fill_in_inputs(config: DictConfig, problems: Problems) -> None:
    """Set `evil_moe.pairs.system`, if it is null, and the checksums of `evil_moe.inputs`.

    Raises:
        ValueError: the pairs or the config are malformed. FileNotFoundError: there is no such probe.
    """
    settings = settings_from(config.evil_moe)
    pairs = load_pairs(settings.pairs.paths, groups=settings.pairs.groups, matched=settings.pairs.matched)
    inputs = {
        "train": checksum(problems.train)[:_DIGITS],
        "validation": checksum(problems.validation)[:_DIGITS],
        "pairs": _digest(json.dumps([asdict(pair) for pair in pairs]).encode()),
    }
    if settings.monitor.kind == "probe" and settings.monitor.probe:
        inputs["probe"] = _digest((Path(settings.monitor.probe) / PROBE_FILE).read_bytes())
    with open_dict(config):
        config.evil_moe.inputs = inputs
        if config.evil_moe.pairs.system is None:
            config.evil_moe.pairs.system = system_message(config, problems)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGITS]
