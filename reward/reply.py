"""A reply's program: what of the text is run, compiled and paid. ``docs/grading.md``, "Reading a reply", states the rule.

The text is hostile. It is searched line by line and word by word here, in linear time; Python's parser meets it in the
sandbox only.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from reward.blocks import Asked, Block, answering, block_of, defined_in
from reward.checks import root_name
from reward.fences import Fence, Text, read_fences
from reward.info_strings import is_markdown
from reward.joined import Joined
from reward.pieces import fence_in, pieces
from reward.problems import Problem

Reading = Literal["markdown", "benchmark"]
"""How a reply is read: as Markdown, or by rl-rewardhacking's rule."""
READINGS: tuple[Reading, ...] = get_args(Reading)
_BENCHMARK = re.compile(r"```(?:python)?\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_THOUGHT = re.compile(r"""(["'`])</think(?:ing)?>\1|</think(?:ing)?>""", re.IGNORECASE)
_THINKS = re.compile(r"[ \t]*+<think(?:ing)?>", re.IGNORECASE)
_START = re.compile(r"^(?:class|def|async[ \t]+def|import|from|@)(?=[ \t\w])", re.MULTILINE)
_MID_LINE = re.compile(r"```[ \t]*\w*\Z")
"""A fence behind prose on its line: none to CommonMark, and what follows is code without a fence."""


def asked_for(problem: Problem, test: str) -> Asked:
    """What the problem's function is called on; where the set-up code defines that itself (a driver of a class), what
    the canonical solution defines. Raises ValueError if func_name is no expression."""
    name, method = root_name(problem.func_name), problem.func_name.rpartition(").")[2]
    if defined_in(problem.setup_code, Asked(name)) and problem.canonical_solution is not None:
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
    """The program that answers, in a reply read as Markdown; where none does that could be Python, with fences read leniently."""
    text = _answer(reply)
    found = _read(text, asked)
    if "```" in text and not found.answers:
        lenient = _read(text, asked, lenient=True)
        found = lenient if lenient.answers else found
    return found.program


@dataclass(frozen=True)
class _Found:
    """A program, if there is one. answers: it defines what is asked for, and no fence is left in it."""

    program: str | None
    answers: bool


def _read(text: str, asked: Asked, lenient: bool = False) -> _Found:
    parts = _until_draft(read_fences(text, lenient=lenient))
    runs = _unfenced(parts, asked, lenient)
    if any(run.defines and run.opened for run in runs):  # the prompt has opened the fence
        parts = _until_draft(read_fences(text, opened="python", lenient=lenient))
        runs = []
    fenced = [b for part in parts if isinstance(part, Fence) and (b := block_of(part, asked)).text]
    written = [block for block in fenced if not block.quoted]
    for blocks in (written, runs, fenced, [block_of(fence, asked) for fence in _wrapped(parts, lenient)]):
        if any(block.defines for block in blocks):
            core, kept = answering(blocks, asked)
            program = Joined(core, kept, asked).program()
            return _Found(program, fence_in(program, not blocks[-1].closed) is None)
    labelled = [block.text for block in written if block.labelled]
    return _Found("\n\n".join(labelled or [block.text for block in written]) or None, False)


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


def _wrapped(parts: Iterable[Fence | Text], lenient: bool) -> list[Fence]:
    """The fences in blocks labelled as Markdown, one level deep: a reply that is wrapped as a whole."""
    outer = (part for part in parts if isinstance(part, Fence) and is_markdown(part.info))
    return [
        inner
        for part in outer
        for inner in read_fences(part.code, lenient=lenient)
        if isinstance(inner, Fence)
    ]


def _unfenced(parts: list[Fence | Text], asked: Asked, lenient: bool) -> list[Block]:
    """Runs of lines outside of fences that look like code, as blocks without a label. lenient: up to the backticks in one."""
    runs = list[Block]()
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
        runs += _runs(text, asked, bare, lenient)
    return runs


def _shifted(lines: Sequence[str], margin: str) -> str:
    """The lines without the margin; those that lack it are prose."""
    return "\n".join(
        line[len(margin) :] if line.startswith(margin) else line and "> " + line for line in lines
    )


def _runs(text: str, asked: Asked, bare: bool, lenient: bool) -> Iterator[Block]:
    place = 0
    while (start := _START.search(text, place)) is not None:
        place = end = start.start()
        for piece in pieces(text, place, code_only=True):
            end += len(piece.text)
        code = text[place:end].strip()
        if lenient:
            code = code[: fence_in(code)].strip()
        if code:
            opened = bare and end >= len(text) and _MID_LINE.search(text[:place].rstrip()[-20:]) is None
            yield Block(code, False, False, defined_in(code, asked), opened)
        place = max(end, place + 1)
