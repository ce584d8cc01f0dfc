"""What only verl, Ray and vLLM can do, and say of themselves, for commands that may not import them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from evil_moe.experiment.doctor.finding import Finding
from evil_moe.experiment.evaluation.answers import Question


@dataclass(frozen=True)
class Stack:
    """Passed in by the command line; each function imports what it needs when it is called.

    Attributes:
        program: how a command of `evil-moe` is run as a process of its own.
        check_version: RuntimeError where verl is another version than the recipe was written for.
        check_platform: RuntimeError where verl runs on another device than this.
        check_vllm: whether vLLM is there; imports it, which takes seconds.
        find_vllm: the same without the import.
        check_cores: whether Ray has the cores that a run holds.
        drive: train as a config says, to its last step.
        generate: token ids of the answers to an evaluation's questions, by the exports of their sides, in one batch.
    """

    program: tuple[str, ...]
    check_version: Callable[[], None]
    check_platform: Callable[[str], None]
    check_vllm: Callable[[DictConfig], Finding]
    find_vllm: Callable[[DictConfig], Finding]
    check_cores: Callable[[DictConfig], Finding]
    drive: Callable[[DictConfig], None]
    generate: Callable[[DictConfig, Sequence[Question], Mapping[str, Path | None]], list[list[int]]]
