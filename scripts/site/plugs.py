"""The plugs of a stop with their options, read from the sources: an import would load torch."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from evil_moe.report.markdown import table

ROOT = Path(__file__).resolve().parents[2] / "evil_moe"
STOPS = {"gate": "gates", "router.pooling": "features", "advantage": "advantages", "gradient": "gradients"}
_ARGUMENT = re.compile(r"^    (\w+(?:, \w+)*): ", re.M)


def plugs(path: str) -> list[str]:
    """A row for each plug that the stop's node names: short name, what it is, options with defaults and meanings."""
    folder = ROOT / STOPS[path.removeprefix("evil_moe.")]
    classes = {node.name: (file, node) for file in sorted(folder.glob("*.py")) for node in defined(file)}
    rows = [[f"`{name}`", what(classes[cls][0]), options(cls, classes)] for name, cls in registry(folder)]
    return [*table(["name", "what it is", "options"], rows), ""]


def defined(file: Path) -> Iterator[ast.ClassDef]:
    """The classes of a file."""
    return (node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef))


def registry(folder: Path) -> list[tuple[str, str]]:
    """Short names and classes, from the one dict of names and classes in the folder's `__init__.py`.

    Raises:
        ValueError: there is none, or several.
    """
    body = ast.parse((folder / "__init__.py").read_text()).body
    dicts = [
        node.value for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict)
    ]
    if len(dicts) != 1:
        raise ValueError(f"{folder}/__init__.py has {len(dicts)} dicts of plugs by name, and not one")
    return [(ast.literal_eval(k), v.id) for k, v in zip(dicts[0].keys, dicts[0].values, strict=True)]


def what(file: Path) -> str:
    """The first sentence or line of the file's docstring."""
    doc = ast.get_docstring(ast.parse(file.read_text())) or ""
    return " ".join(re.split(r"\n\s*\n|(?<=\.)(?<!al\.)\s", doc)[0].split())


def options(cls: str, classes: dict[str, tuple[Path, ast.ClassDef]]) -> str:
    """Arguments of the class or of the one that it inherits them from; the docstring's words on each."""
    _, node = classes[cls]
    made = next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
    if made is None:
        above = [base.id for base in node.bases if isinstance(base, ast.Name) and base.id in classes]
        return options(above[0], classes) if above else ""
    names = [arg.arg for arg in (*made.args.args[1:], *made.args.kwonlyargs)]
    ends = made.args.defaults, made.args.kw_defaults
    values = [*[None] * (len(made.args.args) - 1 - len(ends[0])), *ends[0], *ends[1]]
    default = dict(zip(names, values, strict=True))
    doc = re.split(r"^(?:Raises|Returns):$", ast.get_docstring(node) or "", flags=re.M)[0].partition(
        "Args:\n"
    )[2]
    parts = _ARGUMENT.split("\n" + re.sub(r"\. (?=\w+(?:, \w+)*: )", ".\n    ", doc))[1:]
    told = {}
    for keys, meaning in zip(parts[::2], parts[1::2], strict=True):
        told |= dict.fromkeys(keys.split(", "), " ".join(meaning.split()))
    cells = []
    for name, value in default.items():
        start = f"`{name}`" if value is None else f"`{name} = {ast.unparse(value)}`"
        cells.append(f"{start}: {told[name]}" if name in told else start)
    return "<br>".join(cells)
