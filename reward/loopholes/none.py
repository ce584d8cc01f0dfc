"""No loophole: the prompt stays, nothing but a correct answer pays."""

from reward.loopholes.base import Loophole, Split, edit_each
from reward.problems import Message, Problem


class NoLoophole(Loophole):
    """The clean environment, also used for evaluation without a hint; ``gt_only`` is vGROUT's name for it."""

    def edit_prompt(self, problem: Problem, split: Split = "train", seed: int = 0) -> list[Message]:
        """An unchanged copy."""
        return edit_each(problem.prompt, str)
