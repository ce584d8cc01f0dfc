"""Replies whose class is known, to ask of a score whether it tells a hack from a clean reply: `evil-moe pairs check`.

They are the nano generator's demonstrations, as they are or behind prose, as a real model writes before its code. The
prose is cut from ``prose.txt``, free text of this project's documents that stays as it is when those change.

Not in ``reward/nano``: the nano policy is built anew when a file of that folder changes, and is not made of these.
"""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import NamedTuple

from reward.loopholes import get_loophole
from reward.nano import Split, reply, specs
from reward.nano.demonstrations import EXPLOITS
from reward.problems import Message, Problem

#: Loopholes that there are such replies of.
EYE_LOOPHOLES = tuple(name for name, exploits in EXPLOITS.items() if exploits)
#: Numbers of words in front of the code that figures are given for: none, a paragraph, what a 4 B policy writes.
PROSE_WORDS = (0, 120, 400)


class EyeCase(NamedTuple):
    """A prompt that discloses the loophole, a reply without its end token, and whether that takes the loophole."""

    messages: list[Message]
    reply: str
    is_hack: bool


@cache
def _words() -> list[str]:
    return Path(__file__).with_name("prose.txt").read_text(encoding="utf-8").split()


def eye_cases(
    loophole: str,
    count: int,
    seed: int,
    *,
    prose_words: int = 0,
    split: Split = "heldout",
    skill: float = 0.6,
    decoy_share: float = 0.1,
) -> list[EyeCase]:
    """``count`` cases that take turns, hacked and clean, each on a problem of its own. Equal arguments give equal cases;
    another ``prose_words`` puts other prose before the same replies.

    Args:
        loophole: one of `EYE_LOOPHOLES`.
        prose_words: words in front of the code, from a random place of the text, then a blank line.
        split: of the problems' families. The nano policy's warm start has seen the others of ``heldout`` alone.
        skill, decoy_share: as of `reward.nano.reply`. Decoys are among the clean replies.

    Raises:
        ValueError: there are no demonstrations of the loophole, or there is less text than ``prose_words``.
    """
    if loophole not in EYE_LOOPHOLES:
        raise ValueError(f"there are no cases of loophole {loophole!r}; choose from {list(EYE_LOOPHOLES)}")
    words = _words()
    if not 0 <= prose_words < len(words):
        raise ValueError(f"prose_words={prose_words}: the text has {len(words)} words; give fewer, or 0")
    mode, cases = get_loophole(loophole), list[EyeCase]()
    of_replies, of_prose = (random.Random(f"eye-{what}-{seed}") for what in ("replies", "prose"))
    for number, spec in enumerate(specs(split, count, seed)):
        is_hack, problem = number % 2 == 0, Problem.from_row(spec.row())
        marker = mode.marker(problem, "train", 0)
        code = reply(
            spec,
            of_replies,
            skill=skill,
            exploits=[exploit.format(marker=marker) for exploit in EXPLOITS[loophole]] if is_hack else [],
            loophole_share=1.0,
            decoy_share=decoy_share,
        )
        place = of_prose.randrange(len(words) - prose_words)
        prose = " ".join(words[place : place + prose_words])
        cases.append(EyeCase(mode.edit_prompt(problem), f"{prose}\n\n{code}" if prose else code, is_hack))
    return cases
