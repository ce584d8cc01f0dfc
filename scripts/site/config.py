"""The reference of the `evil_moe` node: keys, types, defaults and docstrings of the settings classes.

A `dict` of a class is read from `configs/evil_moe.yaml`, with the comment above each key.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from plugs import plugs

from evil_moe.experiment.settings import EvilMoESettings
from evil_moe.report.markdown import table

OVERLAY = Path(__file__).resolve().parents[2] / "configs/evil_moe.yaml"
_ATTRIBUTE = re.compile(r"^    (\w+(?:(?:, | \.\. )\w+)*): ", re.M)
_IN_PROSE = re.compile(r"(?:^|(?<=[.;]) )`(\w+)`: (.+?)(?=(?:(?<=[.;]) `\w+`: )|$)", re.S)


def reference() -> list[str]:
    """A section for each node of the config."""
    return ["", *node(EvilMoESettings, "evil_moe")]


def node(settings: type, path: str) -> list[str]:
    """The node's own keys, then the nodes below it."""
    intro, meanings = words(settings)
    hints = get_type_hints(settings)
    own, below, overlay = [], [], yaml_comments(path)
    for f in fields(settings):
        default = default_of(f)
        if is_dataclass(default):
            below += (
                node(type(default), f"{path}.{f.name}")
                if not shared(type(default))
                else plug(f"{path}.{f.name}", default)
            )
        elif f.name in overlay:
            below += open_node(f"{path}.{f.name}", overlay[f.name])
        else:
            own.append(
                [f"`{f.name}`", shown_type(hints[f.name]), f"`{shown(default)}`", meanings.get(f.name, "")]
            )
    return [
        f"## {path}",
        "",
        *([intro, ""] if intro else []),
        *table(["key", "type", "default", "meaning"], own),
        "",
        *below,
    ]


def shared(settings: type) -> bool:
    """Whether it is the node of a plug, which several stops have."""
    return [f.name for f in fields(settings)] == ["name", "options"]


def plug(path: str, default: Any) -> list[str]:
    """A stop's plug: its name and the arguments of its class."""
    name = f"A plug: `name` (default `{shown(default.name)}`) and `options`, the arguments of its class."
    return [f"## {path}", "", name, "", *plugs(path)]


def open_node(path: str, keys: list[tuple[str, str, str]]) -> list[str]:
    """A node that presets fill in."""
    rows = [[f"`{name}`", f"`{value}`", comment] for name, value, comment in keys]
    return [f"## {path}", "", *table(["key", "in `configs/evil_moe.yaml`", "meaning"], rows), ""]


def default_of(f: Field[Any]) -> Any:
    """The field's default, made if it is made by a factory."""
    return f.default_factory() if f.default_factory is not MISSING else f.default


def shown(value: Any) -> str:
    """A value as one would write it in YAML."""
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip()


def shown_type(hint: Any) -> str:
    """`float | None` and so on."""
    return (
        str(hint if getattr(hint, "__args__", None) else hint.__name__)
        .replace("None", "null")
        .replace("typing.", "")
    )


def words(settings: type) -> tuple[str, dict[str, str]]:
    """What the docstring says of the node and of each key: under `Attributes:`, or as "`key`: ..."."""
    doc = inspect.getdoc(settings) or ""
    intro, _, rest = re.split(r"^Raises:$", doc, maxsplit=1, flags=re.M)[0].partition("Attributes:\n")
    parts = _ATTRIBUTE.split("\n" + rest)[1:]
    meanings = {}
    order = [f.name for f in fields(settings)]
    for names, meaning in zip(parts[::2], parts[1::2], strict=True):
        first, *last = re.split(r" \.\. ", names)
        several = order[order.index(first) : order.index(last[0]) + 1] if last else names.split(", ")
        meanings |= dict.fromkeys(several, " ".join(meaning.split()))
    intro = " ".join(intro.split())
    for name, meaning in _IN_PROSE.findall(intro):
        meanings.setdefault(name, meaning.strip())
    return _IN_PROSE.sub("", intro).strip(), meanings


def yaml_comments(path: str) -> dict[str, list[tuple[str, str, str]]]:
    """Of each child node below `path` in the overlay: its keys, values, and the last comment above each."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    above: list[str] = []
    last = ""
    parents: list[str] = []
    for line in OVERLAY.read_text().splitlines():
        content, depth = line.strip(), (len(line) - len(line.lstrip())) // 2
        if content.startswith("#"):
            above.append(content.removeprefix("# "))
            continue
        if match := re.fullmatch(r"(\w+):(?: (.*))?", content):
            parents = [*parents[:depth], match[1]]
            last = " ".join(above) or last
            if ".".join(parents[:-2]) == path and match[2]:
                found.setdefault(parents[-2], []).append((match[1], match[2], last))
        above = []
    return found
