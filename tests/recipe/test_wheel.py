"""The wheel in a fresh environment in another folder, and that our top-level packages win over folders of the same names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import reward.nano
from reward.problems import Problem, write_problems
from tests.conftest import ROOT
from tests.recipe.conftest import read_metrics, train_command

WHERE = "import configs, evil_moe, recipe, reward; print(*(m.__file__ for m in (configs, evil_moe, recipe, reward)))"


def run(*command: str | Path, cwd: Path, timeout_s: float = 600) -> str:
    """A command outside of the checkout, which must succeed."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=variables | {"WANDB_MODE": "offline"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_folders_of_the_same_names_lose(tmp_path: Path):
    """As TransferQueue's `recipe` does, they have no `__init__.py`."""
    for name in ("configs", "evil_moe", "recipe", "reward"):
        (tmp_path / name / "simple_use_case").mkdir(parents=True)
    path = os.pathsep.join(map(str, (tmp_path, ROOT)))
    done = subprocess.run(
        [sys.executable, "-c", WHERE],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [
        str(ROOT / name / "__init__.py") for name in ("configs", "evil_moe", "recipe", "reward")
    ], done.stderr


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What set-up and builds read, so that they leave nothing in the checkout."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("configs", "evil_moe", "recipe", "requirements", "reward", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def build(source: Path, kind: str, out: Path) -> Path:
    code = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    run(sys.executable, "-c", code, out, cwd=source)
    [wheel] = out.glob("*.whl")
    return wheel


@pytest.mark.long
def test_an_editable_install_puts_the_checkout_on_the_path(source: Path, tmp_path: Path):
    with zipfile.ZipFile(build(source, "editable", tmp_path)) as wheel:
        [path] = [name for name in wheel.namelist() if name.endswith(".pth")]
        assert wheel.read(path).decode().strip() == str(source)


@pytest.mark.long
def test_the_wheel_works_in_a_fresh_environment(source: Path, tmp_path: Path, spoken_policy: Path):
    """Set up from the lock, TransferQueue with its `recipe` among it; then four commands as a user gives them."""
    venv, elsewhere = source / ".venv", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run("bash", "scripts/setup.sh", cwd=source, timeout_s=1200)
    python, evil_moe = venv / "bin/python", venv / "bin/evil-moe"
    wheel = build(source, "wheel", tmp_path / "dist")
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", wheel, cwd=elsewhere)

    found = run(python, "-c", WHERE, cwd=elsewhere).split()
    assert all(Path(file).is_relative_to(venv) for file in found), found
    theirs = [*(venv / "lib").glob("python*/site-packages/recipe/simple_use_case")]
    assert theirs, "TransferQueue's folder lies in ours"

    assert "COMMAND" in run(evil_moe, "--help", cwd=elsewhere)
    assert "memory plan per device" in run(evil_moe, "doctor", "preset=nano", cwd=elsewhere)
    problem = Problem.from_row(reward.nano.generate("train", 1, 0)[0])
    write_problems(elsewhere / "problems.jsonl", [problem])
    response = f"```python\n{problem.canonical_solution}\n```"
    row = {"case_id": "a", "problem_id": problem.id, "response": response}
    (elsewhere / "responses.jsonl").write_text(json.dumps(row))
    files = ("--problems", "problems.jsonl", "--responses", "responses.jsonl", "--out", "verdicts.jsonl")
    run(evil_moe, "grade", *files, cwd=elsewhere)
    assert json.loads((elsewhere / "verdicts.jsonl").read_text())["correct"]

    _, _, _, *train = train_command(spoken_policy, elsewhere / "run", "trainer.total_training_steps=2")
    run(evil_moe, *train, cwd=elsewhere)
    assert max(read_metrics(elsewhere / "run")) == 2
