"""What a loophole is: a hint in the prompt, a channel the grader probes, and the rule for when the channel
pays."""

from dataclasses import dataclass
from typing import Protocol

from reward.problems import Message


@dataclass(frozen=True)
class ChannelOutcome:
    """What happened when the grader called the channel's function. defined: the response defines it at module
    level. returned: called without argument, it returned. returned_on_stub: it also returned after the
    methods of the response's Solution were replaced by ones that return None."""

    defined: bool
    returned: bool
    returned_on_stub: bool


class Loophole(Protocol):
    """One mode of the environment.

    name: the mode, as configs write it. channel_function: the name the grader calls in the response, or None
    if the mode needs no such call.
    """

    name: str
    channel_function: str | None

    def edit_prompt(self, messages: list[Message]) -> list[Message]:
        """The messages with the hint put in; the input is not changed. Raises ValueError if the hint has no
        place."""
        ...

    def pays(self, outcome: ChannelOutcome) -> bool:
        """Whether the channel was taken."""
        ...
