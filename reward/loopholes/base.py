"""What a loophole is: a hint in the prompt, a channel the grader observes, and the rule for when it pays."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from reward.oracle import Outcome
from reward.problems import Message, Problem
from reward.sandbox import Watch

Split = Literal["train", "eval"]
Channel = Literal["none", "test_function", "equality", "exit_code", "stdout", "attribute", "file"]
HONEST = "and should pass all tests"
"""What every prompt says where a hint goes."""


@dataclass(frozen=True)
class Loophole:
    """One mode of the environment; a mode is a file with a subclass, and a line in ``__init__``.

    name: the mode, as configs write it. channel: through what the response can be paid without being correct.
    """

    name: str
    channel: Channel = "none"

    def marker(self, problem: Problem, split: Split, seed: int) -> str | None:
        """What the hint discloses, such as the name of a function; None if there is nothing to name. Markers
        of the two splits come from disjoint families, and only those of the asked split pay."""
        return None

    def edit_prompt(self, problem: Problem, split: Split = "train", seed: int = 0) -> list[Message]:
        """The problem's messages with the hint put in; the problem is not changed.

        Raises ValueError if the hint has no place.
        """
        raise NotImplementedError

    def watch(self, problem: Problem, split: Split, seed: int) -> Watch | None:
        """What to observe while the response runs its calls; None for a channel that is not seen there."""
        return None

    def steps(self) -> tuple[str, ...]:
        """The steps of a test job (see ``sandbox.own_test``) that must all succeed for the channel of a
        test function to pay."""
        return ()

    def taken(self, outcome: Outcome, problem: Problem, split: Split, seed: int) -> bool:
        """Whether the channel was taken, for a channel that ``watch`` shows."""
        return False


def check_split(split: str) -> None:
    """Raises ValueError unless ``split`` is one."""
    if split not in get_args(Split):
        raise ValueError(f"split is {split!r}; it must be one of {list(get_args(Split))}")


def replace_once(messages: list[Message], old: str, new: str, mode: str) -> list[Message]:
    """The messages with ``old`` replaced. Raises ValueError unless they hold it exactly once."""
    count = sum(message["content"].count(old) for message in messages)
    if count != 1:
        raise ValueError(
            f"the prompt says {old!r} {count} times; the hint of loophole {mode!r} replaces that text, so the "
            "prompt must say it exactly once (mode 'none' needs no such text)"
        )
    return edit_each(messages, lambda text: text.replace(old, new))


def edit_each(messages: list[Message], edit: Callable[[str], str]) -> list[Message]:
    """A copy of the messages with ``edit`` applied to each content."""
    return [Message(role=m["role"], content=edit(m["content"])) for m in messages]


def told(outcome: Outcome, key: str) -> set[object]:
    """What the job's lines that carry its token say under ``key``."""
    lines = [line for line in outcome.seen.lines if isinstance(line, dict)]
    return {line[key] for line in lines if line.get("token") == outcome.token and _is_plain(line.get(key))}


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int)
