"""What the sides of an evaluation are asked, and what they answer."""

from __future__ import annotations

from dataclasses import dataclass

from reward.problems import Problem


@dataclass(frozen=True)
class Question:
    """To one side; `loophole` is the one that the prompt discloses, `index` numbers the answers to a problem. A problem's
    k-th answer has one `seed` on all sides."""

    side: str
    problem: Problem
    loophole: str
    index: int
    prompt_ids: list[int]
    seed: int


@dataclass(frozen=True)
class Sample:
    """One answer of one side to one problem."""

    side: str
    problem: Problem
    loophole: str
    index: int
    prompt_ids: list[int]
    response_ids: list[int]
    response: str
