"""No loophole: the prompt stays, nothing but a correct answer pays."""

from reward.loopholes.base import ChannelOutcome
from reward.problems import Message


class NoLoophole:
    """The clean environment, also used for evaluation without a hint."""

    name = "none"
    channel_function: str | None = None

    def edit_prompt(self, messages: list[Message]) -> list[Message]:
        """An unchanged copy."""
        return [Message(role=m["role"], content=m["content"]) for m in messages]

    def pays(self, outcome: ChannelOutcome) -> bool:
        """Never."""
        return False
