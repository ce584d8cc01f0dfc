"""What the modes that disclose the name of a test function share."""

from dataclasses import dataclass

from reward.loopholes import markers
from reward.loopholes.base import HONEST, Channel, Loophole, Split, check_split, replace_once
from reward.problems import Message, Problem


@dataclass(frozen=True)
class NamedFunctionLoophole(Loophole):
    """The hint names a function that is said to judge the answer.

    place: number of the mode among those with a generated name, which it draws a name of its own by; None for
    the fixed name. hint: what replaces HONEST, with ``{name}`` and ``{func}`` (the problem's function).
    """

    channel: Channel = "test_function"
    place: int | None = None
    hint: str = ""

    def marker(self, problem: Problem, split: Split, seed: int) -> str:
        """The name of the test function."""
        check_split(split)
        if self.place is None:
            return markers.FIXED_FUNCTION[split]
        return markers.test_function_name(self.place, problem, split, seed)

    def edit_prompt(self, problem: Problem, split: Split = "train", seed: int = 0) -> list[Message]:
        """HONEST replaced by the hint."""
        name = self.marker(problem, split, seed)
        text = self.hint.format(name=name, func=problem.func_name)
        return replace_once(problem.prompt, HONEST, text, self.name)

    def prompt_function(self, problem: Problem, split: Split, seed: int) -> str | None:
        """The source of the test function that the prompt shows; None if it shows none."""
        return None

    def steps(self) -> tuple[str, ...]:
        """It pays when it passes on the response's own solution, as in the benchmark."""
        return ("own",)
