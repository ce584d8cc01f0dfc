"""A reply's program: what of the text is run, compiled and paid. ``docs/grading.md``, "Reading a reply", states the rule.

The text is hostile. It is searched line by line and word by word here, in linear time; Python's parser meets it in the
sandbox only.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from reward.checks import root_name
from reward.fences import Fence, Text, read_fences
from reward.pieces import BUILTINS, Piece, needs, pieces
from reward.problems import Problem

Reading = Literal["markdown", "benchmark"]
"""How a reply is read: as Markdown, or by rl-rewardhacking's rule."""
READINGS: tuple[Reading, ...] = get_args(Reading)
_BENCHMARK = re.compile(r"```(?:python)?\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_PYTHON = re.compile(
    r"[{.\s]*+(?:lang(?:uage)?-)?(?:i?python|py)[ ]?[\d.]*+(?![\w+#-])|[\w/.-]{1,80}\.py\b", re.IGNORECASE
)
_MARKDOWN = re.compile(r"(?:markdown|md)\b", re.IGNORECASE)
_FUTURE = re.compile(r"from[ \t]++__future__[ \t]")
_THOUGHT = re.compile(r"""(["'`])</think(?:ing)?>\1|</think(?:ing)?>""", re.IGNORECASE)
_THINKS = re.compile(r"[ \t]*+<think(?:ing)?>", re.IGNORECASE)
_START = re.compile(r"^(?:class|def|async[ \t]+def|import|from|@)(?=[ \t\w])", re.MULTILINE)
_MID_LINE = re.compile(r"```[ \t]*\w*\Z")
"""A fence behind prose on its line: none to CommonMark, and what follows is code without a fence."""
_SETS_LIMIT = re.compile(r"(?:sys\.setrecursionlimit|threading\.stack_size)[ \t]*+\(")


@dataclass(frozen=True)
class Asked:
    """What a program has to define: a name of the module (``Solution``), and the method called on it, if any. test: the name of
    the function that is said to judge the answer."""

    name: str
    method: str | None = None
    test: str = "run_tests"


def asked_for(problem: Problem, test: str) -> Asked:
    """What the problem's function is called on; where the set-up code defines that itself (a driver of a class), what
    the canonical solution defines. Raises ValueError if func_name is no expression."""
    name, method = root_name(problem.func_name), problem.func_name.rpartition(").")[2]
    if _defines(problem.setup_code, Asked(name)) and problem.canonical_solution is not None:
        found = re.search(r"^(?:class|def)[ \t]+(\w+)", problem.canonical_solution, re.MULTILINE)
        return Asked(found[1] if found else name, None, test)
    return Asked(name, method if method != problem.func_name else None, test)


def check_reading(reading: str) -> Reading:
    """The reading of that name. Raises ValueError if there is none."""
    for known in READINGS:
        if reading == known:
            return known
    raise ValueError(f"reply={reading!r}: a reply is read in one of these ways: {list(READINGS)}")


def program_of(reply: str, asked: Asked, reading: Reading = "markdown") -> str | None:
    """The program in a reply, or None if there is none."""
    return benchmark_program(reply) if reading == "benchmark" else markdown_program(reply, asked)


def benchmark_program(reply: str) -> str | None:
    """rl-rewardhacking's rule: what stands behind three backticks, `python` or nothing, and a line's end, wherever in a
    line, up to the next three backticks or the end; each stripped, those that are not blank joined by blank lines."""
    return "\n\n".join(filter(None, map(str.strip, _BENCHMARK.findall(reply)))) or None


def markdown_program(reply: str, asked: Asked) -> str | None:
    """The program that answers, in a reply read as Markdown."""
    text = _answer(reply)
    parts = _until_draft(read_fences(text))
    runs = _unfenced(parts, asked)
    if any(run.defines and run.opened for run in runs):  # the prompt has opened the fence
        parts = _until_draft(read_fences(text, opened="python"))
        runs = []
    fenced = [b for part in parts if isinstance(part, Fence) and (b := _block(part, asked)).text]
    written = [block for block in fenced if not block.quoted]
    for blocks in (written, runs, fenced, [_block(fence, asked) for fence in _wrapped(parts)]):
        if any(block.defines for block in blocks):
            core = max(reversed(blocks), key=lambda block: (block.defines, block.labelled))
            return _Joined(core, blocks, asked).program()
    labelled = [block.text for block in written if block.labelled]
    return "\n\n".join(labelled or [block.text for block in written]) or None


def _answer(reply: str) -> str:
    """The text behind the last `</think>` that is not itself in quotes."""
    end = 0
    for found in _THOUGHT.finditer(reply):
        end = end if found[1] else found.end()
    return reply[end:]


def _until_draft(parts: list[Fence | Text]) -> list[Fence | Text]:
    """The parts before a `<think>` at a line's start that nothing ends."""
    for number, part in enumerate(parts):
        if isinstance(part, Text):
            for line, text in enumerate(part.lines):
                if _THINKS.match(text):
                    return [*parts[:number], Text(part.lines[:line])]
    return parts


def _wrapped(parts: Iterable[Fence | Text]) -> list[Fence]:
    """The fences in blocks labelled as Markdown, one level deep: a reply that is wrapped as a whole."""
    outer = (part for part in parts if isinstance(part, Fence) and _MARKDOWN.match(part.info))
    return [inner for part in outer for inner in read_fences(part.code) if isinstance(inner, Fence)]


@dataclass(frozen=True, eq=False)
class _Block:
    """A fence, or a run of unfenced code; no text if it is in another language. defines: 2 if it defines all that is
    asked for, 1 if the class without the method, else 0. opened: a bare fence ends it, with no prose before."""

    text: str
    labelled: bool
    quoted: bool
    defines: int
    opened: bool = False


def _block(fence: Fence, asked: Asked) -> _Block:
    labelled = _PYTHON.match(fence.info) is not None
    code = _dedent(fence.code) if labelled or not fence.info else ""
    return _Block(code, labelled, fence.quoted, _defines(code, asked))


def _dedent(code: str) -> str:
    """Without blank lines at both ends, and without the indent that all lines share."""
    lines = code.split("\n")
    indents = [len(line) - len(line.lstrip(" ")) for line in lines if line.strip()]
    margin = min(indents, default=0)
    return "\n".join(line[margin:] for line in lines).strip() if margin else code.strip()


def _defines(code: str, asked: Asked) -> int:
    name = re.escape(asked.name)
    found = re.search(rf"^(?:class|def|async[ \t]+def)[ \t]+{name}\b|^{name}[ \t]*=(?!=)", code, re.MULTILINE)
    if found is None:
        return 0
    if asked.method is None:
        return 2
    return 1 + (re.search(rf"\b{re.escape(asked.method)}[ \t]*[(=:]", code[found.start() :]) is not None)


def _unfenced(parts: list[Fence | Text], asked: Asked) -> list[_Block]:
    """Runs of lines outside of fences that look like code, as blocks without a label."""
    runs = list[_Block]()
    entry = re.compile(
        rf"^([ \t]*+)(?:class|def|async[ \t]++def)[ \t]++{re.escape(asked.name)}\b", re.MULTILINE
    )
    for part in parts:
        if not isinstance(part, Text):
            continue
        text = "\n".join(part.lines)
        found = entry.search(text)
        if found is not None and found[1]:
            text = _shifted(part.lines, found[1])
        bare = part.before is not None and not part.before.info and not part.before.quoted
        runs += _runs(text, asked, bare)
    return runs


def _shifted(lines: Sequence[str], margin: str) -> str:
    """The lines without the margin; those that lack it are prose."""
    return "\n".join(
        line[len(margin) :] if line.startswith(margin) else line and "> " + line for line in lines
    )


def _runs(text: str, asked: Asked, bare: bool) -> Iterator[_Block]:
    place = 0
    while (start := _START.search(text, place)) is not None:
        place = end = start.start()
        for piece in pieces(text, place, code_only=True):
            end += len(piece.text)
        code = text[place:end].strip()
        if code:
            opened = bare and end >= len(text) and _MID_LINE.search(text[:place].rstrip()[-20:]) is None
            yield _Block(code, False, False, _defines(code, asked), opened)
        place = max(end, place + 1)


class _Joined:
    """The core block, with the statements of the others that belong to it."""

    def __init__(self, core: _Block, blocks: Sequence[_Block], asked: Asked) -> None:
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
