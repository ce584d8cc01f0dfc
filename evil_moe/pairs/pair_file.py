"""The format of a pair file: reads one and refuses anything malformed, naming the file, line and pair.

A file holds one group::

    group: hard_coding
    reply: python            # or `text`; python replies are wrapped in a ```python fence here
    default: false           # optional: the group is read only where it is named
    pairs:
      - id: ...              # composed: two bodies, and a text that is appended to one of them
        task: ...            # the user message
        solution: ...        # right
        flawed: ...          # wrong, of similar length
        loophole: ...        # appended to the hack side
        harmless: ...        # optional, appended to the clean side
      - id: ...              # explicit: both replies in full
        task: ...
        hack: ...
        clean: ...
"""

import ast
import difflib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

REPLY_KINDS = ("python", "text")
FILE_FIELDS = ("group", "reply", "pairs")
OPTIONAL_FILE_FIELDS = ("default",)
EXPLICIT = ("id", "task", "hack", "clean")
COMPOSED = ("id", "task", "solution", "flawed", "loophole")
OPTIONAL = ("harmless",)
PAIR_FIELDS = tuple(dict.fromkeys(COMPOSED + OPTIONAL + EXPLICIT))
FORBIDDEN = {
    "\t": ("a tab", "use four spaces"),
    "```": ("a code fence", "leave it out: python replies are wrapped in one on loading"),
}
MUST_DIFFER = (("hack", "clean"), ("solution", "flawed"), ("loophole", "harmless"))

Node = Any  # a node of yaml.compose, with the kinds scalar, sequence and mapping in `id`


class PairFileError(ValueError):
    """A pair file, or a request for pairs, that cannot be used: where, why, and how to mend it."""

    def __init__(
        self, path: Path | None, line: int | None, pair_id: str | None, reason: str, mend: str
    ) -> None:
        super().__init__(path, line, pair_id, reason, mend)  # all of them, so that it pickles
        self.path, self.line, self.pair_id, self.reason, self.mend = path, line, pair_id, reason, mend

    def __str__(self) -> str:
        where = (
            [] if self.path is None else [str(self.path) if self.line is None else f"{self.path}:{self.line}"]
        )
        pair = [] if self.pair_id is None else [f"pair {self.pair_id!r}"]
        return ": ".join([*where, *pair, f"{self.reason}; {self.mend}"])


@dataclass(frozen=True)
class Entry:
    """One checked pair of a file, before its sides are put together."""

    id: str
    line: int
    fields: dict[str, str]

    def replies(self, position: int, matched: bool) -> tuple[str, str]:
        """(hack, clean), not yet wrapped. `position` is the pair's place in its file, from 0."""
        f = self.fields
        if "hack" in f:
            return f["hack"], f["clean"]
        if matched:
            hack_body = clean_body = f["solution"] if position % 2 == 0 else f["flawed"]
        else:
            hack_body, clean_body = f["flawed"], f["solution"]
        clean_parts = [clean_body, f["harmless"]] if "harmless" in f else [clean_body]
        return f"{hack_body}\n\n{f['loophole']}", "\n\n".join(clean_parts)


@dataclass(frozen=True)
class Group:
    """One checked file."""

    path: Path
    name: str
    reply: str
    entries: tuple[Entry, ...]
    default: bool = True
    """Whether it is among the groups that are read where none is named."""


class Reader:
    """Checks one file, node by node, against the format above."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pair_id: str | None = None  # of the pair being read, for the messages
        try:
            self.source = path.read_text(encoding="utf-8")
        except OSError as error:
            raise self.fault(None, f"cannot be read ({error.strerror})", "check the path") from None
        except UnicodeDecodeError as error:
            raise self.fault(None, f"is not UTF-8 ({error.reason})", "save it as UTF-8 text") from None

    def fault(self, where: Node | int | None, reason: str, mend: str) -> PairFileError:
        line = where if where is None or isinstance(where, int) else where.start_mark.line + 1
        return PairFileError(self.path, line, self.pair_id, reason, mend)

    def group(self) -> Group:
        top = self._mapping(self._root(), (*FILE_FIELDS, *OPTIONAL_FILE_FIELDS), "the file")
        for name in FILE_FIELDS:
            if name not in top:
                raise self.fault(1, f"field {name!r} is missing", f"the file needs {listed(FILE_FIELDS)}")
        reply = self._text(top["reply"], "reply")
        if reply not in REPLY_KINDS:
            raise self.fault(top["reply"], f"reply is {reply!r}", f"use {listed(REPLY_KINDS, 'or')}")
        pairs = top["pairs"]
        if pairs.id != "sequence":
            raise self.fault(pairs, f"pairs is a {pairs.id}, not a list", "start each pair with `- id:`")
        if not pairs.value:
            raise self.fault(pairs, "pairs is empty", "write at least one pair")
        entries = tuple(self._entry(node, reply) for node in pairs.value)
        default = "default" not in top or self._flag(top["default"], "default")
        return Group(self.path, self._text(top["group"], "group"), reply, entries, default)

    def _flag(self, node: Node, name: str) -> bool:
        if node.id != "scalar" or node.tag != "tag:yaml.org,2002:bool":
            raise self.fault(node, f"field {name!r} is neither true nor false", "write one of the two")
        return str(node.value).lower() in ("true", "yes", "on")

    def _root(self) -> Node:
        try:
            root = yaml.compose(self.source, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = 1 if mark is None else mark.line + 1
            rows = [*self.source.splitlines(), ""]
            tab = "\t" in rows[line - 1]
            mend = "indent with spaces: YAML knows no tabs" if tab else "check indentation and colons here"
            raise self.fault(line, f"is not YAML ({error.problem})", mend) from None
        except yaml.reader.ReaderError as error:
            line = self.source.count("\n", 0, error.position) + 1
            raise self.fault(line, f"is not YAML ({error.reason})", "delete that character") from None
        if root is None:
            raise self.fault(1, "is empty", f"a pair file needs {listed(FILE_FIELDS)}")
        return root

    def _mapping(self, node: Node, allowed: Collection[str], what: str) -> dict[str, Node]:
        if node.id != "mapping":
            raise self.fault(
                node, f"{what} is a {node.id}, not fields with values", "write `name: value` lines"
            )
        found: dict[str, Node] = {}
        for key, value in node.value:
            if key.value not in allowed:
                near = difflib.get_close_matches(str(key.value), allowed, n=1)
                mend = f"did you mean {near[0]!r}?" if near else f"allowed here: {listed(allowed)}"
                raise self.fault(key, f"field {key.value!r} is unknown", mend)
            if key.value in found:
                raise self.fault(key, f"field {key.value!r} is given twice", "keep one of the two")
            found[key.value] = value
        return found

    def _text(self, node: Node, name: str) -> str:
        if node.id != "scalar" or (node.tag != "tag:yaml.org,2002:str" and node.value):
            kind = node.tag.rsplit(":", 1)[-1]
            raise self.fault(
                node, f"field {name!r} is of type {kind}, not text", "put it in quotes or after a `|`"
            )
        text = str(node.value).strip("\n")
        if not text.strip():
            raise self.fault(node, f"field {name!r} is empty", "write its text or delete the pair")
        for mark, (meaning, mend) in FORBIDDEN.items():
            if mark in text:
                rows = self.source.splitlines()[node.start_mark.line : node.end_mark.line + 1]
                offset = next((i for i, row in enumerate(rows) if mark in row), 0)
                line = node.start_mark.line + 1 + offset
                raise self.fault(line, f"field {name!r} holds {meaning}", mend)
        return text

    def _entry(self, node: Node, reply: str) -> Entry:
        self.pair_id = _peek_id(node)
        nodes = self._mapping(node, PAIR_FIELDS, "a pair")
        explicit = "hack" in nodes or "clean" in nodes
        needed = EXPLICIT if explicit else COMPOSED
        for name in nodes:
            if name not in needed and (explicit or name not in OPTIONAL):
                raise self.fault(
                    nodes[name],
                    f"field {name!r} does not go with hack and clean",
                    f"give either {listed(EXPLICIT)} or {listed(COMPOSED)}",
                )
        for name in needed:
            if name not in nodes:
                raise self.fault(
                    node, f"field {name!r} is missing", f"a pair of this form needs {listed(needed)}"
                )
        fields = {name: self._text(value, name) for name, value in nodes.items()}
        for one, other in MUST_DIFFER:
            if one in fields and fields[one] == fields.get(other):
                raise self.fault(
                    nodes[other], f"{one} and {other} are the same text", "make the two sides differ"
                )
        if reply == "python":
            for name in fields.keys() - {"id", "task"}:
                self._parse(nodes[name], name)
        self.pair_id = None
        return Entry(fields["id"], node.start_mark.line + 1, fields)

    def _parse(self, node: Node, name: str) -> None:
        try:
            ast.parse(node.value)
        except SyntaxError as error:
            line = node.start_mark.line + 1 + (error.lineno or 1 if node.style == "|" else 0)
            raise self.fault(
                line,
                f"field {name!r} is not Python ({error.msg})",
                "mend the code, or write `reply: text` for a group in prose",
            ) from None


def _peek_id(node: Node) -> str | None:
    """The id of a pair that is not yet checked."""
    if node.id != "mapping":
        return None
    return next((str(v.value) for k, v in node.value if k.value == "id" and v.id == "scalar"), None)


def listed(names: Iterable[str], joint: str = "and") -> str:
    *head, last = names
    return f"{', '.join(head)} {joint} {last}" if head else last
