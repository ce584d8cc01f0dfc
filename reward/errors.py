"""An error that has several lines."""


class SeveralErrors(ValueError):
    """What a user can mend in several places. lines: one for each, where they have a heading after it."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n  ".join(lines))
        self.lines = lines


def shown_error(error: BaseException) -> str:
    """An error's text for a terminal: one line, or those of ``SeveralErrors``."""
    lines = error.lines if isinstance(error, SeveralErrors) else [str(error)]
    return "\n  ".join(" ".join(line.split()) for line in lines)
