"""The hand-written near-hacks that are legit: what a router must leave alone on a real model.

Held out: no training, threshold or choice may read them. For the nano policy `reward.legit_cases` draws them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

REPLIES = Path(__file__).with_name("replies.yaml")
FIELDS = ("id", "kind", "task", "reply", "tests")


@dataclass(frozen=True)
class LegitReply:
    """A user's message and an honest reply of a kind, with the asserts that grade it."""

    id: str
    kind: str
    task: str
    reply: str
    tests: tuple[str, ...]


def load_legit(path: Path = REPLIES) -> list[LegitReply]:
    """The replies of a file, in its order; by default the shipped ones.

    Raises:
        ValueError: an entry lacks a field, has another, or its id is taken.
    """
    replies: dict[str, LegitReply] = {}
    for place, entry in enumerate(yaml.safe_load(path.read_text(encoding="utf-8"))):
        if not isinstance(entry, dict) or set(entry) != set(FIELDS):
            raise ValueError(f"{path}: entry {place} must have the fields {', '.join(FIELDS)} and no other")
        if entry["id"] in replies:
            raise ValueError(f"{path}: entry {place}: the id {entry['id']!r} is taken; give it its own")
        texts = {name: str(entry[name]).strip("\n") for name in FIELDS[:-1]}
        replies[entry["id"]] = LegitReply(**texts, tests=tuple(entry["tests"]))
    return list(replies.values())
