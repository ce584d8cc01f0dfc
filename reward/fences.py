"""The fenced code blocks of a Markdown text, as CommonMark has them (https://spec.commonmark.org/0.31.2/#fenced-code-blocks).

One pass over the lines; each costs its length and at most ``_DEPTH`` containers, so the time is linear in the text
whatever it holds, with ``lenient``, too. Parsers that are written for documents are not: markdown-it-py takes minutes for 100 kB of
quoted list items with fences and lazy lines between. Containers (block quotes, list items) and lazy paragraph lines
are followed as far as they decide what is a fence. Two deviations: HTML blocks are text, so a fence right below ``<details>`` is one;
and in a list item a fence whose first line of code is not indented goes on to its closing fence.
"""

import re
from dataclasses import dataclass, field

from reward.info_strings import is_python_word

_FENCE = re.compile(r"(`{3,}+)([^`]*)\Z|(~{3,}+)(.*)\Z", re.DOTALL)
_MARKER = re.compile(r"([-*+]|(\d{1,9}+)[.)])(?=[ \t]|\Z)")
_BREAK = re.compile(r"(?:(?:\*[ \t]*+){3,}|(?:-[ \t]*+){3,}|(?:_[ \t]*+){3,})\Z")
_HEADING = re.compile(r"#{1,6}(?:[ \t]|\Z)")
_CODE = re.compile(r"[A-Za-z_@#]")
_SCANNED = re.compile(
    r"""(?P<quotes>"{3}|'{3})|"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|'(?:[^'\\]|\\.)*+(?:'|\\?\Z)"""
    r"""|\#(?:[^`]|`{1,2}(?!`)|`{3,}+(?![ \t]*\Z))*+|(?P<ticks>`{3,}+)"""
)
"""Of a line of Python: a string, or what begins one of several lines; a comment up to backticks that end it; backticks."""
_DEPTH = 24
"""Containers in each other that are followed; markers beyond are text."""
_QUOTE = 0
"""In a stack of containers: a block quote. A list item is the number of columns its content is indented by."""


@dataclass(frozen=True)
class Fence:
    """A fenced block: its info string, its code without the container's and the fence's indent, whether it stands in
    a block quote, and whether something ends it before the text ends."""

    info: str
    code: str
    quoted: bool
    closed: bool = True


@dataclass
class Text:
    """Lines outside of fences and quotes, between two fences. before: the fence that ends it, None at the end."""

    lines: list[str] = field(default_factory=list)
    before: Fence | None = None


@dataclass
class _Open:
    mark: str
    length: int
    indent: int
    depth: int
    info: str
    quoted: bool
    within: int
    lines: list[str] = field(default_factory=list)
    string: str = ""
    """The three quotes of a string that is open where the next line begins; followed by `glued` alone."""

    def closes(self, rest: str, indent: int) -> bool:
        run = rest.rstrip(" \t")
        return indent <= self.within and len(run) >= self.length and not run.strip(self.mark) and run != ""

    def glued(self, line: str) -> tuple[str, str] | None:
        """(what stands before a run of backticks in the line that is outside of strings and comments, or ends a comment,
        what stands behind it); None if there is none that is long enough."""
        place = 0
        if self.string:
            place = line.find(self.string)
            if place < 0:
                return None
            place, self.string = place + 3, ""
        while (token := _SCANNED.search(line, place)) is not None:
            place = token.end()
            if token["quotes"]:
                end = line.find(token["quotes"], place)
                if end < 0:
                    self.string = token["quotes"]
                    return None
                place = end + 3
            elif self.mark == "`" and token["ticks"] and len(token["ticks"]) >= self.length:
                return line[: token.start()].rstrip(), line[place:].strip()
        return None

    def fence(self, closed: bool) -> Fence:
        return Fence(self.info.strip(), "\n".join(self.lines), self.quoted, closed)


def read_fences(text: str, opened: str | None = None, lenient: bool = False) -> list[Fence | Text]:
    """The text's fences, with what stands outside of them between, in order.

    opened: the info string of a fence that is open where the text begins; None: none is. A fence that nothing closes
    ends with its container or with the text. lenient: backticks close a fence wherever they stand in a line, but for
    strings and comments of Python (the end of a comment excepted); a line that ends in them and a word for Python opens the next.
    """
    found: list[Fence | Text] = [Text()]
    stack: list[int] = []
    paragraph = False
    fence = None if opened is None else _Open("`", 3, 0, 0, opened, False, 3)

    def close(closed: bool = True) -> None:
        nonlocal fence
        assert fence is not None
        block, last = fence.fence(closed), found[-1]
        assert isinstance(last, Text)
        last.before = block
        found.extend([block, Text()])
        fence = None

    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        if any(stack) and line[:1] in (" ", "\t"):  # an item's indent may be a part of a tab
            line = _expanded(line)
        matched, place, column = _match(stack, line)
        rest, indent = _rest(line, place, column)
        if fence is not None:
            if matched < fence.depth and _CODE.match(rest) and not fence.lines and _QUOTE not in stack:
                stack, fence.within, fence.indent, fence.depth = [], sum(stack) + fence.indent + 3, 0, 0
                matched, (rest, indent) = 0, _rest(line, 0, 0)
            if matched == fence.depth:
                code = _dedented(line, place, column, fence.indent)
                if fence.closes(rest, indent):
                    close()
                elif lenient and (parts := fence.glued(code)) is not None:
                    fence.lines += [parts[0]] if parts[0] else []
                    length, depth, quoted = fence.length, fence.depth, fence.quoted
                    close()
                    between, info = _reopened(parts[1])
                    if between:
                        _text(found, stack, between)
                    if info:
                        fence = _Open("`", length, 0, depth, info, quoted, 3)
                    paragraph = bool(between)
                else:
                    fence.lines.append(code)
                continue
            close()  # its container has ended
            paragraph = False
        if not rest:
            paragraph = False
            if _QUOTE in stack[matched:]:
                del stack[matched:]
            _text(found, stack, line)
            continue
        interrupts = paragraph and matched == len(stack)
        new, place, column = _containers(stack[:matched], line, place, column, interrupts)
        rest, indent = _rest(line, place, column)
        start = _FENCE.match(rest) if indent < 4 else None
        lazy = paragraph and matched < len(stack) and len(new) == matched and start is None
        if lazy and not (indent < 4 and _ends_paragraph(rest)):
            _text(found, stack, line)
            continue
        stack = new
        if start is not None:
            mark = start[1] or start[3]
            fence = _Open(
                mark[0], len(mark), indent, len(stack), start[2] or start[4] or "", _QUOTE in stack, 3
            )
            paragraph = False
            continue
        paragraph = rest != "" and (interrupts or indent < 4) and not (indent < 4 and _ends_paragraph(rest))
        _text(found, stack, line)
    if fence is not None:
        close(closed=False)
    return found


def _reopened(behind: str) -> tuple[str, str]:
    """(text, the info string of a fence that is opened behind it or "") of what stands behind a closing fence on its line."""
    if is_python_word(behind):
        return "", behind
    text, _, word = behind.rpartition("```")
    return (text.rstrip("` \t"), word.strip()) if is_python_word(word.strip()) else (behind, "")


def _ends_paragraph(rest: str) -> bool:
    return _BREAK.match(rest) is not None or _HEADING.match(rest) is not None


def _text(found: list[Fence | Text], stack: list[int], line: str) -> None:
    last = found[-1]
    assert isinstance(last, Text)
    last.lines.append("> quoted" if _QUOTE in stack else line)


def _indent(line: str, place: int, column: int) -> tuple[int, int]:
    """(place behind the blanks, columns they take)."""
    start = column
    while place < len(line) and line[place] in " \t":
        column += 4 - column % 4 if line[place] == "\t" else 1
        place += 1
    return place, column - start


def _expanded(line: str) -> str:
    place, indent = _indent(line, 0, 0)
    return " " * indent + line[place:]


def _rest(line: str, place: int, column: int) -> tuple[str, int]:
    place, indent = _indent(line, place, column)
    return line[place:], indent


def _skip(line: str, place: int, column: int, width: int) -> tuple[int, int]:
    """Place and column behind up to ``width`` columns of blanks; a tab that is only begun stays."""
    end = column + width
    while place < len(line) and line[place] in " \t":
        step = 4 - column % 4 if line[place] == "\t" else 1
        if column + step > end:
            break
        place, column = place + 1, column + step
    return place, column


def _dedented(line: str, place: int, column: int, width: int) -> str:
    return line[_skip(line, place, column, width)[0] :]


def _match(stack: list[int], line: str) -> tuple[int, int, int]:
    """(containers that the line goes on with, place and column behind their marks)."""
    place = column = 0
    for number, container in enumerate(stack):
        at, indent = _indent(line, place, column)
        if container == _QUOTE:
            if indent > 3 or line[at : at + 1] != ">":
                return number, place, column
            place, column = _skip(line, at + 1, column + indent + 1, 1)
        elif at == len(line):
            continue  # a blank line belongs to every item
        elif indent < container:
            return number, place, column
        else:
            place, column = _skip(line, place, column, container)
    return len(stack), place, column


def _containers(
    stack: list[int], line: str, place: int, column: int, paragraph: bool
) -> tuple[list[int], int, int]:
    """The containers that the line opens below those of ``stack``, and place and column behind their marks."""
    stack = list(stack)
    while len(stack) < _DEPTH:
        at, indent = _indent(line, place, column)
        if indent > 3:
            break
        if line[at : at + 1] == ">":
            stack.append(_QUOTE)
            place, column, paragraph = *_skip(line, at + 1, column + indent + 1, 1), False
            continue
        marker = _MARKER.match(line, at)
        if marker is None or _BREAK.match(line, at):
            break
        behind, blanks = _indent(line, marker.end(), column + indent + len(marker[0]))
        empty = behind == len(line)
        if paragraph and (empty or marker[2] not in (None, "1")):
            break  # such an item does not interrupt a paragraph
        width = 1 if empty or blanks > 4 else blanks
        stack.append(indent + len(marker[0]) + width)
        place, column = _skip(line, marker.end(), column + indent + len(marker[0]), width)
        paragraph = False
    return stack, place, column
