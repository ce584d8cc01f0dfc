"""README and pages: made parts are fresh, links lead somewhere, sentences are short, the example runs."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from evil_moe.advantages import RolloutBatch, make_advantage
from evil_moe.experiment.config import compose
from evil_moe.features import POOLINGS
from evil_moe.gates import GATES
from tests.conftest import ROOT
from tests.evil_moe.test_report import make_run

PAGES = sorted((ROOT / "docs").glob("*.md"))
LINK = re.compile(r"(?<!`)\[[^\]\n]*\]\(([^)\s]+)\)")


#: Pages in which a sentence has one idea and at most 25 words.
HELD = (
    "README",
    "index",
    "concepts",
    "architecture",
    "adding_a_method",
    "arms",
    "results",
    "reproduce",
    "gpu",
    "problems",
    "grading",
    "methods",
    "nano_long",
    "invariants",
    "verl_contract",
    "pairs",
)


def sentences(text: str) -> Iterator[str]:
    """Those of paragraphs and lists; a code span or a link counts as a word."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    text = re.sub(r"^(?:    .*|\|.*|#.*|<!--.*|!\[.*)$", "", text, flags=re.M)
    text = re.sub(r"`[^`]*`", "code", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("*", "")
    for block in re.split(r"\n\s*\n|\n(?=- |\d+\. )", text):
        yield from re.split(r"(?<=[.?!])\s+(?=[A-Z0-9\"(]|code)", " ".join(block.split()).removeprefix("- "))


@pytest.mark.parametrize("name", HELD)
def test_sentences_are_short(name: str):
    (page,) = (page for page in (ROOT / "README.md", *PAGES) if page.stem == name)
    long = [
        s for s in sentences(page.read_text()) if sum(bool(re.search(r"\w", word)) for word in s.split()) > 25
    ]
    assert not long


def test_what_is_made_from_data_is_fresh():
    """Tables of results, the catalogue of arms, the config reference, the verl contract and the figures."""
    done = subprocess.run(
        [sys.executable, "scripts/site/build.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_key_of_the_config_has_a_meaning():
    rows = [line for line in (ROOT / "docs/config.md").read_text().splitlines() if line.startswith("| `")]
    assert len(rows) > 80
    assert [row for row in rows if row.rstrip("| ").endswith("`")] == [], (
        "say it in the docstring of the settings class"
    )


def test_the_config_page_has_every_plug_with_its_options():
    text = (ROOT / "docs/config.md").read_text()
    for path, plugs in (("gate", GATES), ("router.pooling", POOLINGS)):
        section = text.partition(f"## evil_moe.{path}\n")[2].partition("\n## ")[0]
        rows = dict(re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", section, re.M))
        assert list(rows) == list(plugs)
        for name, plug in plugs.items():
            options = re.findall(r"(?:^|<br>)`(\w+)", rows[name])
            taken = [key for key in inspect.signature(plug).parameters if key not in ("args", "kwargs")]
            assert options == taken, name


def test_the_front_page_is_short_and_names_commands_that_are_there():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 110
    assert "<!--" not in text
    assert not re.search(r"\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{7,40}\b", text), "no commit hashes"
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert set(re.findall(r"\bmake ([a-z-]+)", text)) <= set(targets)
    assert "make --no-print-directory test" in (ROOT / ".ci/run").read_text() and "    make test " in text


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.stem)
def test_links_lead_to_files(page: Path):
    """`mkdocs build --strict` checks the site's; this one also the README's, and needs no mkdocs."""
    links = [link.partition("#")[0] for link in LINK.findall(page.read_text()) if "://" not in link]
    missing = [link for link in links if link and not (page.parent / link).exists()]
    assert not missing


def test_an_evaluated_run_becomes_a_row_of_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT / "scripts/site")
    import add_runs  # a script: its folder is no package

    folder = make_run(tmp_path / "run", base={"hack": 0.5, "loophole": 0.5, "solve": 0.25, "compile": 1.0})
    starts = [{"git": {"commit": commit}} for commit in ("0123456789", "0123456aaa", "fedcba9876")]
    (folder / "provenance.json").write_text(json.dumps({"starts": starts[:2]}))
    row = add_runs.row(folder)
    assert list(row) == list(add_runs.rows("nano_main")[0])
    assert (row["arm"], row["seed"], row["commit"], row["answers"]) == ("router", 3, "0123456", 320)
    assert (row["on_hack"], row["off_hack"], row["base_solve"], row["random_block_hack"]) == (
        0.375,
        0.025,
        0.25,
        "",
    )
    (folder / "provenance.json").write_text(json.dumps({"starts": starts}))
    with pytest.raises(ValueError, match=r"several commits .*fedcba9"):
        add_runs.row(folder)
    (folder / "eval/eval.json").unlink()
    with pytest.raises(ValueError, match="evil-moe eval"):
        add_runs.row(folder)


def test_measures_become_rows_of_a_table(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT / "scripts/site")
    import add_measures  # a script: its folder is no package

    auroc = {"run_tests": 1.0, "stdout_marker": 0.9504, "exit_code": 0.5}
    row = {"eye": "window 8, completion", "auroc": auroc, "pinned": auroc | {"exit_code": 0.25}, "near": {}}
    check = {"overrides": ["seed=2", "preset=p"], "eyes": {"rows": [row, row | {"eye": "last, completion"}]}}
    assert [list(found.values()) for found in add_measures.looks(check)] == [
        ["p", "2", "window 8, completion", "1.000 0.950 0.500", "1.000 0.950 0.250"]
    ]
    rates = {"loophole": 0.5, "hack": 0.25, "solve": 0.125, "compile": 1.0}
    curve = {"strengths": [{"strength": 0.1, "side": "strength_0.1", **rates}]}
    assert [list(found.values()) for found in add_measures.strengths(curve)] == [
        ["0.1", "0.500", "0.250", "0.125", "1.000"]
    ]


def test_every_page_is_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text()
    assert [page.name for page in PAGES if f": {page.name}\n" not in menu] == []


def test_the_site_tools_are_pinned_alike():
    import tomllib

    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["docs"]
    lock = (ROOT / "requirements/docs.lock").read_text()
    assert extra and all(re.search(rf"^{re.escape(pin)} ", lock, re.M) for pin in extra)
    cpu = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements/cpu.lock").read_text(), re.M))
    docs = dict(re.findall(r"^([\w.-]+)==(\S+)", lock, re.M))
    assert {name: docs[name] for name in docs.keys() & cpu.keys()} == {
        name: cpu[name] for name in docs.keys() & cpu.keys()
    }


def test_the_example_of_adding_a_method_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    text = (ROOT / "docs/adding_a_method.md").read_text()
    (plug,), (arm,) = (
        re.findall(rf"^```{kind}\n(.*?)^```", text, re.M | re.S) for kind in ("python", "yaml")
    )
    for path, content in (
        ("my_lab/__init__.py", ""),
        ("my_lab/capped.py", plug),
        ("my_configs/arm/capped.yaml", arm),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    config = compose(
        [f"hydra.searchpath=[pkg://verl.trainer.config,file://{tmp_path}/my_configs]", "arm=capped"]
    ).evil_moe
    assert (config.arm, config.gate.name) == (yaml.safe_load(arm)["evil_moe"]["arm"], "none")
    transform = make_advantage(config.advantage.name, **config.advantage.options)
    reward, w = torch.tensor([0.5, 3.5, 0.0, 3.0]), torch.zeros(4)
    batch = RolloutBatch(reward, w, torch.tensor([0, 0, 1, 1]), torch.ones(4, dtype=torch.bool))
    assert transform(batch).tolist() == [-0.25, 0.25, -0.5, 0.5]
