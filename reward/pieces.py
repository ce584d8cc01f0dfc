"""The top-level statements of a text that may be Python: found by lines, brackets and strings, never parsed.

What a reply holds is hostile, and Python's own parser may overflow its stack on it, so it is called in the sandbox only.
All patterns are linear: they begin at a word, take what they take for good (``++``), or are bounded.
"""

import builtins
import keyword
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

_TOKEN = re.compile(
    r'''(?P<string>(?:\b[A-Za-z]{1,2})?+(?:"""(?:[^"\\]|\\.|"(?!""))*+(?:"""|\\?\Z)|\'\'\'(?:[^'\\]|\\.|'(?!''))*+(?:\'\'\'|\\?\Z)'''
    r"""|"(?:[^"\\\n]|\\.)*+(?:"|(?=\n)|\\?\Z)|'(?:[^'\\\n]|\\.)*+(?:'|(?=\n)|\\?\Z)))"""
    r"|(?P<comment>\#[^\n]*+)|(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<joined>\\\n)|(?P<line>\n)|\w++|.",
    re.DOTALL,
)
_NAME = re.compile(r"(?<![\w.])[^\W\d]\w*+")
_DEFINED = re.compile(r"(?<![\w.])(?:def|class)[ \t]++(\w++)")
_ASSIGNED = re.compile(
    r"(?<![\w.])([^\W\d]\w*+)[ \t]*+(?:,[ \t]*+[^\W\d]\w*+[ \t]*+){0,9}(?::[^=,()\n]{1,80})?:?=(?!=)"
)
_TARGETS = re.compile(
    r"(?<!\w)(?:for[ \t]++([^:\n]{1,80}?)[ \t]in\b|as[ \t]++(\w++)|def[ \t]++\w++[ \t]*+\(([^)]{0,400})|lambda[ \t]++([^:\n]{1,80}):)"
)
_GLOBAL = re.compile(r"(?<!\w)(?:global|nonlocal)[ \t]++([\w, \t]++)")
_IMPORT = re.compile(
    r"^[ \t]*+(?:from[ \t]++[\w.]++[ \t]++import[ \t]*+(\(([^)]*+)|[^\n;]++)|import[ \t]++([^\n;]++))",
    re.MULTILINE,
)
_EFFECT = re.compile(r"[\w\])][ \t]*+\(|[.\]][ \t]*+\w*+[ \t]*+=(?!=)|(?<!\w)(?:raise|del)(?!\w)")
_CONTINUES = re.compile(r"(?:else|elif|except|finally)\b")
_HEADER = re.compile(
    r"(?:if|for|while|with|try|async[ \t]++(?:for|with)|match)\b[^\n]*:|(?:else|elif|except|finally)\b[^\n]*:"
)
_STATEMENT = re.compile(
    r"(?:class|def|async[ \t]++def)[ \t]++\w++[ \t]*+[(:\[]|@\w|import[ \t]++[\w., \t]++$|from[ \t]++[\w.]++[ \t]++import\b"
    r"|[\w.]++(?:\[[^\]\n]*+\])?+(?:[ \t]*+,[ \t]*+[\w.]++)*+[ \t]*+(?::[^=\n]{1,80})?(?:[-+*/%&|^]|//|\*\*|<<|>>)?=(?!=)"
    r"|[\w.]++\(|(?:pass|raise|assert|del|global)\b|\#(?!\#)|\"\"\"|\'\'\'",
    re.MULTILINE,
)
_BEHIND = re.compile(r"\n++")
BUILTINS = frozenset(dir(builtins)) | {"exit", "quit"}


@dataclass
class Piece:
    """A top-level statement, with the blank and indented lines behind it. code: the text with comments and strings
    blanked out, those of f-strings excepted. whole: brackets and strings are closed."""

    text: str
    code: str
    whole: bool

    @cached_property
    def kind(self) -> str:
        """def, import, guard (of the main module), run (all else) or blank."""
        first = self.code.lstrip("\n")
        if not first.strip():
            return "blank"
        if re.match(r"(?:@|(?:async[ \t]+)?def\b|class\b)", first):
            return "def"
        if re.match(r"(?:import|from)\b", first):
            return "import"
        return "guard" if re.match(r"if\b[^\n]*\b__name__\b", first) else "run"

    @cached_property
    def binds(self) -> frozenset[str]:
        """Names of the module that it defines, imports or assigns; "*" for a star import."""
        if self.kind == "def":
            defined = _DEFINED.search(self.code)
            return frozenset({defined[1]} if defined else ())
        if self.kind == "blank":
            return frozenset()
        return frozenset(_imported(self.code)) | _assigned(self.code) | set(_DEFINED.findall(self.code))

    @cached_property
    def needs(self) -> frozenset[str]:
        """Names that it reads and does not bind anywhere itself, builtins excepted."""
        return needs(self.code)

    @property
    def acts(self) -> bool:
        """Whether running it can do something: it calls, sets an attribute or an item, raises or deletes."""
        return self.kind == "run" and _EFFECT.search(self.code) is not None


def looks_like_code(text: str, place: int) -> bool:
    """Whether the line at ``place`` has the form of a statement rather than of prose."""
    return _STATEMENT.match(text, place) is not None or _HEADER.match(text, place) is not None


def pieces(text: str, place: int = 0, code_only: bool = False) -> Iterator[Piece]:
    """The statements of ``text`` from ``place`` on, in order; joined they are the text. code_only: up to the first
    whose first line has not the form of one."""
    start, depth, code = place, 0, list[str]()
    whole, decorates = True, False
    if code_only and not looks_like_code(text, place):
        return
    for token in _TOKEN.finditer(text, place):
        kind, word = token.lastgroup, token[0]
        if kind == "string":
            whole = whole and len(word) > 1 and word[-1] == word.lstrip("bBfFrRuU")[0]
            code.append(word if word[0] in "fF" or word[:2].lower() == "rf" else '""')
        elif kind == "comment":
            continue
        else:
            code.append(word if kind != "joined" else " ")
            # A decorator and what it decorates are one.
            decorates = (
                decorates or (word == "@" and text[token.start() - 1 : token.start()] in ("", "\n"))
            ) and (word not in ("def", "class"))
            depth = max(depth + (kind == "open") - (kind == "close"), 0)
            if kind == "line" and depth == 0 and not decorates and _begins(text, token.end()):
                yield Piece(text[start : token.end()], "".join(code), whole)
                start, code, whole = token.end(), [], True
                if code_only and not looks_like_code(text, start):
                    return
    if start < len(text):
        yield Piece(text[start:], "".join(code), whole and depth == 0)


def fence_in(text: str, cut_off: bool = False) -> int | None:
    """Where three backticks stand outside of strings and comments, so that it is no Python; None if none do.

    cut_off: count a comment, too, that ends in them with no statement behind.
    """
    for token in _TOKEN.finditer(text) if "```" in text else ():
        if token[0] == "`" and text.startswith("```", token.start()):
            return token.start()
        if cut_off and token.lastgroup == "comment" and token[0].rstrip().endswith("```"):
            found = _BEHIND.match(text, token.end())
            place = found.end() if found else len(text)
            if place < len(text) and text[place] not in " \t" and not looks_like_code(text, place):
                return token.start()
    return None


def _begins(text: str, place: int) -> bool:
    """Whether a statement begins at this line's start."""
    return text[place : place + 1] not in ("", " ", "\t", "\n") and not _CONTINUES.match(text, place)


def needs(code: str) -> frozenset[str]:
    """Names that ``code`` (of a Piece) reads and does not bind anywhere, builtins excepted."""
    bound = set(_imported(code)) | set(_DEFINED.findall(code)) | _assigned(code)
    for found in _TARGETS.finditer(code):
        bound.update(_NAME.findall(",".join(filter(None, found.groups()))))
    for found in _GLOBAL.finditer(code):
        bound.difference_update(_NAME.findall(found[1]))
    return frozenset(set(_NAME.findall(code)) - bound - BUILTINS) - set(keyword.kwlist)


def _assigned(code: str) -> set[str]:
    found = set[str]()
    for one in _ASSIGNED.finditer(code):
        found.update(_NAME.findall(one[0].partition("=")[0].partition(":")[0]))
    return found


def _imported(code: str) -> set[str]:
    found = set[str]()
    for one in _IMPORT.finditer(code):
        for part in (one[2] or one[1] or one[3] or "").replace("(", " ").split(","):
            words = part.split()
            if words:
                found.add(words[-1] if "as" in words else words[0].partition(".")[0])
    return found
