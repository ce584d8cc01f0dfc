"""Blocks of a reply that may hold its program, what of the asked-for each defines, and which were cut off."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from reward.fences import Fence
from reward.info_strings import is_python
from reward.pieces import pieces

_UNFINISHED = re.compile(
    r"(?:[-+/%&|^@<>=~!,:([{\\]|(?<!import )\*|(?<!\.\.)\.|(?<![\w.])(?:and|or|not|in|is|if|else|for|while|lambda|import|from|as|with"
    r"|def|class|elif|except|assert|del|await|async))\Z"
)
"""What no statement ends with."""
_ENDS = re.compile(r"return[ \t(]++\S|(?:raise|yield|pass)(?!\w)|\.\.\.")
"""How the last statement of a function that returns something begins."""
_ENDS_ITS_LINE = re.compile(rf":[ \t]*+(?:{_ENDS.pattern})")


@dataclass(frozen=True)
class Asked:
    """What a program has to define: a name of the module (``Solution``), and the method called on it, if any. test: the name of
    the function that is said to judge the answer."""

    name: str
    method: str | None = None
    test: str = "run_tests"


@dataclass(frozen=True, eq=False)
class Block:
    """A fence, or a run of unfenced code; no text if it is in another language. defines: 2 if it defines all that is
    asked for, 1 if the class without the method, else 0. opened: a bare fence ends it, with no prose before. closed: no fence
    that the text leaves open."""

    text: str
    labelled: bool
    quoted: bool
    defines: int
    opened: bool = False
    closed: bool = True


def block_of(fence: Fence, asked: Asked) -> Block:
    """A fence as a block."""
    labelled = is_python(fence.info)
    code = _dedent(fence.code) if labelled or not fence.info else ""
    return Block(code, labelled, fence.quoted, defined_in(code, asked), closed=fence.closed)


def _dedent(code: str) -> str:
    """Without blank lines at both ends, and without the indent that all lines share."""
    lines = code.split("\n")
    indents = [len(line) - len(line.lstrip(" ")) for line in lines if line.strip()]
    margin = min(indents, default=0)
    return "\n".join(line[margin:] for line in lines).strip() if margin else code.strip()


def defined_in(code: str, asked: Asked) -> int:
    """2 if the code defines all that is asked for, 1 if the class without the method, else 0."""
    name = re.escape(asked.name)
    found = re.search(rf"^(?:class|def|async[ \t]+def)[ \t]+{name}\b|^{name}[ \t]*=(?!=)", code, re.MULTILINE)
    if found is None:
        return 0
    if asked.method is None:
        return 2
    return 1 + (re.search(rf"\b{re.escape(asked.method)}[ \t]*[(=:]", code[found.start() :]) is not None)


def answering(blocks: Sequence[Block], asked: Asked) -> tuple[Block, list[Block]]:
    """The block that answers, of which one must define something, and all blocks, without the end of one that was cut off.

    A last block that the text breaks off in, before it has defined all that is asked for, gives way to a whole one.
    """
    core = _best(blocks)
    last = blocks[-1]
    whole = [block for block in blocks if block.closed and block.defines == 2]
    if last.closed or not whole:
        return core, list(blocks)
    if core is last and not _is_cut(last.text, _best(whole).text, asked):
        return core, list(blocks)
    kept = [*blocks[:-1], replace(last, text=_without_end(last.text), defines=0)]
    return _best(whole), kept


def _best(blocks: Sequence[Block]) -> Block:
    return max(reversed(blocks), key=lambda block: (block.defines, block.labelled))


def _without_end(code: str) -> str:
    """Without a last statement that is not finished."""
    found = list(pieces(code))
    if found and _is_unfinished(found[-1].code, found[-1].whole):
        found.pop()
    return "".join(piece.text for piece in found).strip()


def _is_unfinished(code: str, whole: bool) -> bool:
    return not whole or _UNFINISHED.search(code.rstrip()) is not None


def _is_cut(code: str, other: str, asked: Asked) -> bool:
    """Whether the code ends before what is asked for does: within a statement, or in a function that has yet to return, where
    the other's does."""
    found = list(pieces(code))
    if any(_is_unfinished(piece.code, piece.whole) for piece in found[-1:]):
        return True
    plain = "".join(piece.code for piece in found)
    name = re.escape(asked.method or asked.name)
    heads = list(re.finditer(rf"^([ \t]*+)(?:async[ \t]++)?def[ \t]++{name}\b([^\n]*+)", plain, re.MULTILINE))
    if not heads or re.search(r"(?<![\w.])return[ \t]*[^\s]", other) is None:
        return False
    if _ENDS_ITS_LINE.search(heads[-1][2]):
        return False
    margin, lines = len(heads[-1][1]), plain[heads[-1].end() :].rstrip().split("\n")
    if any(line.strip() and len(line) - len(line.lstrip()) <= margin for line in lines):
        return False  # something stands behind it
    return _ENDS.match(_last_statement(lines)) is None


def _last_statement(lines: Sequence[str]) -> str:
    """The last line, with those before that its brackets go back to."""
    open_ones, taken = 0, list[str]()
    for line in reversed(lines):
        taken.append(line)
        open_ones += sum(map(line.count, ")]}")) - sum(map(line.count, "([{"))
        if open_ones <= 0 and line.strip():
            break
    return "\n".join(reversed(taken)).strip()
