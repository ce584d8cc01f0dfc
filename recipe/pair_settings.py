"""The nodes `evil_moe.pairs`, `evil_moe.pin` and `evil_moe.contrast` of the config."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class PairSettings:
    """Contrastive pairs: extra files or folders (null: the shipped ones), groups (null: all), matched bodies, a seed
    that swaps the sides of a random half (control: labels that say nothing), arguments of the chat template, the
    same as the rollouts', and the system message they are read with ("" for none; null: the one that most of the run's
    rollouts have)."""

    paths: list[str] | None = None
    groups: list[str] | None = None
    matched: bool = True
    shuffle_seed: int | None = None
    chat_template: dict[str, Any] = field(default_factory=dict)
    system: str | None = None


@dataclass(frozen=True)
class PinSettings:
    """Weight of the pin loss, 0 turns it off; `matched`: it compares the two sides of each pair, not all sides with one
    threshold."""

    weight: float = 1.0
    matched: bool = False


@dataclass(frozen=True)
class ContrastSettings:
    """Weight of the contrast between rollouts of the whole adapter and of the deployed model (`evil_moe.contrast`), 0
    turns it off."""

    weight: float = 0.0
