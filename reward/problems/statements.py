"""What a statement says of its answers: that their order is free, how near a number must be, that several are right.

A sentence counts where it speaks of what is returned: "you may return the answer in any order" does, "you may perform
the operations in any order" does not. Which order is free (see ``comparison``) follows from the words:

    outer   "return the answer in any order"
    inner   "the integers in the lists may be returned in any order"
    all     "the order of the output and the order of the triplets does not matter"; subsets, combinations, triplets
            and groups in any order, for a subset has no order, where a permutation, a path or a board has one

and from an example that shows what else is right: "[[3,1]] is also accepted", after ``Output: [[1,3]]``.

"Answers within 10^-5 of the actual answer" is read as an absolute difference, as it is written; "absolute or relative
error" as either.

"If there are multiple answers, return any of them" is another thing: several answers are right, and an assert with
``==`` knows one of them. No comparison mends that; such a problem is named (``Statement.any_answer``).
"""

import ast
import re
from dataclasses import dataclass

from reward.comparison import Comparison, Order
from reward.sandbox import codec

_SAYS = r"\b(?:return\w*|output\w*|print\w*|report\w*|answers?|results?|solutions?)\b"
_ANY_ORDER = r"\b(?:in|with) (?:any|an? arbitrary|arbitrary|whatever|no particular|no specific) order\b"
_MEMBERS = r"(?:subsets?|power set|combinations?|triplets?|quadruplets?|groups?|teams?)"
_NO_MATTER = r"(?:does not|doesn't|do not|don't|need not) matter|is (?:not important|unimportant|irrelevant)"
_FREE = [
    re.compile(rf"{_SAYS}(?P<between>[^;]*?){_ANY_ORDER}"),
    re.compile(rf"\border (?:of|in|for|within) (?P<between>[^;]*?\b(?:{_MEMBERS}|{_SAYS})[^;]*?)(?:{_NO_MATTER})"),
    re.compile(rf"{_SAYS}(?P<between>[^;]*?)\border (?:{_NO_MATTER}|can be arbitrary)"),
    re.compile(rf"{_SAYS}(?P<between>[^;]*?)\b(?:regardless|irrespective) of (?:the |their )?order\b"),
    re.compile(r"\bany order (?:is|are|will be) (?P<between>)(?:fine|ok|okay|accepted|allowed|acceptable|valid)\b"),
]  # fmt: skip
# What is done in any order, where it is not the answer that comes in one.
_DONE = re.compile(
    r"\b(?:perform|appl[yi]|operat|choos|chose|pick|select|remov|delet|tak|took|visit|process|mov[ei]|us(?:e|ed|ing)\b|do\b"
    r"|done\b|buy|sell|swap|rearrang|reorder|shuffl|concatenat|merg|cut|assign|plac[ei]|complet|finish|execut|insert"
    r"|travers|arrang|split|given|read\b|typed|press|burst|eat|collect|attend|scored?\b|happen|played)"
)
_TIED = re.compile(r"\b(?:ties?|tied|(?:with|have|has|having|of|share) (?:the )?(?:same|equal))\b")
_INNER = re.compile(
    r"\b(?:in|of|within) (?:the|each|both|either|every) (?:\w+ )?(?:lists?|arrays?|groups?)\b"
)
_BOTH = re.compile(r"\border (?:of|in|within|inside)\b.*\border (?:of|in|within|inside)\b")
_UNORDERED = re.compile(
    rf"\b(?:return|find|list|generate|give|output)\b[^.]*\b{_MEMBERS}\b|\bgroup (?:the|all)\b"
)
_ORDERED = re.compile(
    r"\b(?:permutations?|paths?|(?:sub)?sequences?|arrangements?|boards?|partition\w*|sorted|(?:a|de)scending)\b"
)

_POWER = re.compile(
    r"(?<![\d.])10\s*(?:\^|\*\*)?\s*[({]?\s*[-\u2212\u2013\u207b]\s*(?P<power>\d{1,2}|[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]{1,2})(?!\d)"
    r"|\b1\.?0*e[-\u2212]0*(?P<e>\d{1,2})\b|(?<![\d.])0?\.(?P<zeros>0*)1\b"
)
_NEAR = re.compile(r"\b(?:within|errors?|tolerance|precision|differs?|deviat\w+)\b")
_RIGHT = re.compile(r"\b(?:accept\w*|answers?|correct|outputs?|results?|return\w*|considered)\b")
_SUPERSCRIPTS = str.maketrans("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079", "0123456789")

_ANSWERS = (
    r"(?:answers?|solutions?|ones?|arrays?|strings?|permutations?|arrangements?|paths?|lists?|results?)"
)
_SEVERAL = [
    re.compile(r"\b(?:return|output|print)\b(?: the \w+(?: \w+)? (?:to|of))? any (?!order|other|changes?|number of)[\w ]+"),
    re.compile(rf"\b(?:choose|give|report|find|pick) any(?: one)?(?: valid| correct| possible| such)? (?:{_ANSWERS}|of (?:them|these|those))\b"),
    re.compile(rf"\b(?:multiple|several|many|more than one|different)(?: \w+){{0,3}}? {_ANSWERS}\b[^.]*\b(?:any|either|one of them)\b"),
    re.compile(r"\bany(?: valid| correct| such| possible| of (?:the|these))+(?: \w+)? (?:is|are|will be) (?:also )?(?:accepted|fine|ok|okay|correct)\b"),
]  # fmt: skip
_UNIQUE = re.compile(
    r"\b(?:answer|solution|result|output)\b[^.]{0,30}\bunique\b|\bunique (?:answer|solution)\b"
)
_ALSO = re.compile(
    r"(?P<value>\[[^\n]*?\]|\"[^\"\n]*\"|-?\d[\d.]*)[, ]*(?:(?:(?:is|are|would be|will be) )?also (?:an? )?(?:accepted|acceptable"
    r"|valid|correct|right|possible)|(?:is|are|would be|will be) (?:accepted|acceptable))\b",
)
_OUTPUT = re.compile(r"output\W*[:=]\W*?(?P<value>\[[^\n]*\]|\"[^\"\n]*\"|-?\d[\d.]*)")


@dataclass(frozen=True)
class Statement:
    """What was found. any_order, tolerance, relative_tolerance: as the fields of a problem, None where nothing is said.
    any_answer: the words by which several answers are right, or None."""

    any_order: Order | None = None
    tolerance: float | None = None
    relative_tolerance: float | None = None
    any_answer: str | None = None


def read_statement(text: str) -> Statement:
    """What a statement in English says. Its Markdown and the remains of its HTML are taken out first."""
    text = re.sub(r"<sup>|</sup>", lambda found: "^" if found[0] == "<sup>" else "", text.lower())
    text = re.sub(r"</?[a-z][^<>\n]*>|[`*_]", "", text.replace("**-", "^-"))
    for mark, plain in (("\u2019", "'"), ("&#39;", "'"), ("&nbsp;", " "), ("\u00a0", " "), ("^^", "^")):
        text = text.replace(mark, plain)
    sentences = [
        " ".join(part.split()) for part in re.split(r"(?<=[.!?:;])\s+|\n\s*\n|\n(?=\s*[-\u2022])", text)
    ]
    order, words = _order(sentences, text)
    tolerance, relative = _tolerance(sentences)
    if words is None and not _UNIQUE.search(text):
        joined = " ".join(sentences)
        words = next((found[0] for one in _SEVERAL if (found := one.search(joined))), None)
    return Statement(order, tolerance, relative, words)


def _order(sentences: list[str], text: str) -> tuple[Order | None, str | None]:
    """Which order is free, or the words that say so of a part of the answer only."""
    shown, words = _shown_order(text)
    for sentence in sentences:
        for pattern in _FREE:
            for found in pattern.finditer(sentence):
                if _DONE.search(found["between"]):
                    continue
                if _TIED.search(sentence):
                    return None, found[0]
                said = _which(sentence, text)
                return said if shown in (None, said) else "all", None
    return shown, words


def _which(sentence: str, text: str) -> Order:
    if _BOTH.search(sentence):
        return "all"
    if _INNER.search(sentence):
        return "inner"
    unordered = re.search(rf"\b{_MEMBERS}\b", sentence) or _UNORDERED.search(text)
    return "all" if unordered and not _ORDERED.search(text) else "outer"


def _shown_order(text: str) -> tuple[Order | None, str | None]:
    """The order that another accepted answer of an example shows to be free, or its words where none explains it."""
    order: Order | None = None
    for found in _ALSO.finditer(text):
        before = [one["value"] for one in _OUTPUT.finditer(text, 0, found.start())]
        try:
            output, other = (
                codec.encode(ast.literal_eval(value)) for value in (before[-1:] or [""]) + [found["value"]]
            )
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        free: tuple[Order, ...] = ("outer", "inner", "all")
        shows = next((one for one in free if Comparison(one).same(output, other)), None)
        if shows is None:
            return None, found[0]
        order = shows if order in (None, shows) else "all"
    return order, None


def _tolerance(sentences: list[str]) -> tuple[float | None, float | None]:
    for sentence in sentences:
        found = _POWER.search(sentence)
        if found and _NEAR.search(sentence) and _RIGHT.search(sentence):
            zeros = found["zeros"]
            power = found["power"] or found["e"]
            digits = int(power.translate(_SUPERSCRIPTS)) if zeros is None else len(zeros) + 1
            value = float(f"1e-{digits}")
            return value, value if "relative" in sentence else None
    return None, None
