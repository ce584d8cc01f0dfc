"""The program of a reply of several blocks: the one that answers, with the statements of the others that belong to it."""

import re
from collections.abc import Iterable, Iterator, Sequence

from reward.blocks import Asked, Block
from reward.pieces import BUILTINS, Piece, needs, pieces

_FUTURE = re.compile(r"from[ \t]++__future__[ \t]")
_SETS_LIMIT = re.compile(r"(?:sys\.setrecursionlimit|threading\.stack_size)[ \t]*+\(")


class Joined:
    """The core block, with the statements of the others that belong to it."""

    def __init__(self, core: Block, blocks: Sequence[Block], asked: Asked) -> None:
        self._asked, self._core = asked, core
        place = blocks.index(core)
        self._before = [(block, list(pieces(block.text))) for block in blocks[:place]]
        self._after = [(block, list(pieces(block.text))) for block in blocks[place + 1 :]]
        others = [piece for _, found in (*self._before, *self._after) for piece in found if piece.whole]
        self._binding = {
            name: piece for piece in others if asked.name not in piece.binds for name in piece.binds
        }
        self._demos = self._tried(others)
        self._known = set(BUILTINS)
        self._picked = set[int]()
        self._pick(piece for piece in others if "*" in piece.binds)

    def program(self) -> str:
        """The program's text: the core's as it is, if nothing else belongs to it."""
        if not self._before and not self._after:
            return self._core.text
        own = list(pieces(self._core.text))
        self._known.update(*(piece.binds for piece in own))
        self._provide(needs("".join(piece.code for piece in own)))
        self._pick(piece for _, found in self._after for piece in found if self._is_test(piece))
        for block, found in self._after:
            for piece in found if block.labelled else ():
                if self._may_run(piece):
                    self._provide(piece.needs)
                    if piece.needs <= self._known:
                        self._pick([piece])
        for _, found in self._before:
            self._pick(piece for piece in found if piece.whole and _SETS_LIMIT.match(piece.code))
            tables = set[str]().union(*(p.binds for p in found if p.kind == "run" and id(p) in self._picked))
            self._pick(
                piece
                for piece in found
                if self._may_run(piece) and piece.needs & tables and piece.needs <= self._known
            )
        blocks = [*(found for _, found in self._before), own]
        future = [piece for found in blocks for piece in _futures(found)]
        moved = set(map(id, future))
        texts = ["\n".join(piece.text.strip() for piece in future)]
        texts += (self._text(found) for _, found in self._before)
        texts += ["".join(piece.text for piece in own if id(piece) not in moved).strip()]
        texts += [self._text(found) for _, found in self._after]
        return "\n\n".join(filter(None, texts))

    def _text(self, found: Iterable[Piece]) -> str:
        return "".join(
            piece.text if piece.text.endswith("\n") else piece.text + "\n"
            for piece in found
            if id(piece) in self._picked
        ).strip()

    def _is_test(self, piece: Piece) -> bool:
        name = re.escape(self._asked.test)
        return (
            re.search(rf"\b(?:def|class)[ \t]+{name}\b|^{name}[ \t]*=(?!=)", piece.code, re.MULTILINE)
            is not None
        )

    def _pick(self, chosen: Iterable[Piece]) -> None:
        for piece in chosen:
            if id(piece) not in self._picked:
                self._picked.add(id(piece))
                self._known |= piece.binds
                self._provide(piece.needs)

    def _provide(self, names: Iterable[str]) -> None:
        """Pick what binds the names, the last of each, with what that needs, and so on."""
        todo = list(names)
        while todo:
            name = todo.pop()
            found = self._binding.get(name)
            if name not in self._known and found is not None:
                self._known |= found.binds
                self._picked.add(id(found))
                todo += found.needs

    def _may_run(self, piece: Piece) -> bool:
        """Whether it does something, and neither tries the answer out nor reads what it is to be tried on."""
        return piece.acts and piece.whole and self._demos.isdisjoint(_names(piece.code))

    def _tried(self, others: Iterable[Piece]) -> set[str]:
        """Names of what is tried out, of Python's input, and of the functions that use one of these."""
        names = {"input", "stdin", self._asked.method or self._asked.name}
        users: dict[str, list[Piece]] = {}
        for piece in others:
            if piece.kind == "def" and self._asked.name not in piece.binds:
                for name in _names(piece.code):
                    users.setdefault(name, []).append(piece)
        todo = list(names)
        while todo:
            for piece in users.pop(todo.pop(), []):
                todo += piece.binds - names
                names |= piece.binds
        return names


def _futures(found: Iterable[Piece]) -> Iterator[Piece]:
    """A block's imports from `__future__`, which Python takes at a program's beginning only."""
    for piece in found:
        if _FUTURE.match(piece.code) and piece.whole:
            yield piece
        elif piece.code.strip() not in ("", '""'):
            return


def _names(code: str) -> set[str]:
    return set(re.findall(r"\b[^\W\d]\w*+", code))
