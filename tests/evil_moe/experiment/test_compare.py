"""`evil-moe compare`: what it makes of its arguments, and that a failed run does not take the others with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from evil_moe.experiment.commands import compare as compare_module
from evil_moe.experiment.commands.compare import MAIN_ARMS, compare, folders_of, split
from evil_moe.experiment.config import compose
from evil_moe.report import RunFolderError, load_run
from tests.conftest import ROOT
from tests.recipe.conftest import environment

PROGRAM = ["evil-moe"]


def test_split() -> None:
    assert split(["preset=nano", "arms=[router,none]", "seeds=[3,1]", "evil_moe.pin.weight=0"]) == (
        ["router", "none"],
        [3, 1],
        ["preset=nano", "evil_moe.pin.weight=0"],
    )
    assert split([])[:2] == (list(MAIN_ARMS), [0, 1, 2])


def own_arm(folder: Path, name: str, text: str) -> str:
    """An arm that is the router with more lines; the override that finds it."""
    (folder / "arm").mkdir(exist_ok=True)
    (folder / "arm" / f"{name}.yaml").write_text(
        f"# @package _global_\ndefaults: [router, _self_]\nevil_moe: {text}\n"
    )
    return f"hydra.searchpath=[pkg://verl.trainer.config,file://{folder}]"


def test_an_arm_of_ones_own(tmp_path: Path) -> None:
    path = own_arm(tmp_path, "mine", "{arm: mine}")
    folders = folders_of(*split(["arms=[mine,none]", "seeds=[0,1]", path]))
    names = [folder.relative_to(Path.cwd()).as_posix() for folder in folders.values()]
    assert names == [f"runs/nano/{arm}/seed{seed}" for seed in (0, 1) for arm in ("mine", "none")]
    assert list(folders)[1] == ("none", 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", r"arm=mine says of itself evil_moe\.arm=router"),
        (
            "{arm: mine, run_dir: 'runs/nano/router/seed${seed}'}",
            "arm=mine seed=0 and another run both write to",
        ),
        ("{arm: mine, run_dir: runs/here}", "arm=mine seed=1 and another run both write to .*runs/here"),
    ],
)
def test_two_runs_do_not_share_a_folder(tmp_path: Path, text: str, message: str) -> None:
    path = own_arm(tmp_path, "mine", text)
    with pytest.raises(ValueError, match=message):
        compare(["arms=[router,mine]", "seeds=[0,1]", path], None, None, program=PROGRAM)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seeds=[a]", "whole numbers"),
        ("seeds=[]", "seeds=.*: give a list"),
        ("seeds=[0,1,0]", "no entry twice"),
        ("seeds=3", "seeds=3: give a list"),
        ("seeds=1.5", "seeds=1.5: give a list"),
        ("arms=[router,none,router]", "no entry twice"),
        ("arms=[]", "arms=.*: give a list"),
        ("arms=router", "arms=router: give a list"),
        ("arm=router", r"use arms=\[...\]"),
    ],
)
def test_split_refuses(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split([override])


def test_an_unknown_arm_is_refused_before_anything_runs() -> None:
    with pytest.raises(ValueError, match=r"rooter(.|\n)*Choose one of \['absorb'"):
        compare(["arms=[router,rooter]"], None, None, program=PROGRAM)


def test_a_reference_arm_that_would_not_run_is_refused_before_anything_does() -> None:
    with pytest.raises(ValueError, match=r"--reference router is none of arms=\[none,absorb\]"):
        compare(["arms=[none,absorb]"], None, None, "router", program=PROGRAM)


class Commands(list[list[str]]):
    """Stands in for running compare's commands: notes them; `code` is what they end with."""

    code = 1

    def __call__(self, program: list[str], arguments: list[str]) -> int:
        assert program == PROGRAM
        self.append(arguments)
        return self.code


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    commands = Commands()
    monkeypatch.setattr(compare_module, "_command", commands)
    return commands


@pytest.mark.parametrize("code", [130, -signal.SIGTERM])
def test_a_run_that_is_stopped_stops_all(
    code: int, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.code = code
    assert compare(["arms=[none,router]", "seeds=[0]"], None, None, program=PROGRAM) == 130
    assert commands == [["train", "arm=none", "seed=0"]]
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "[evil-moe] stopped at none, seed 0; the same command goes on from there"


def test_a_run_that_fails_does_not(commands: Commands) -> None:
    assert compare(["arms=[none,router]", "seeds=[0]"], None, None, program=PROGRAM) == 1
    assert [command[1] for command in commands] == ["arm=none", "arm=router"]


# Stands in for Python: a command that needs a moment to end when it is stopped.
SLOW_TO_STOP = """#!/bin/sh
trap 'sleep 1; echo ended >> "$0.log"; exit 130' TERM INT
echo started >> "$0.log"
for _ in $(seq 600); do sleep 0.1; done
"""


@pytest.mark.parametrize("to_group", [False, True])
def test_stopping_compare_ends_its_command_first(tmp_path: Path, to_group: bool) -> None:
    """A scheduler's SIGTERM reaches compare alone, a Ctrl-C the whole group."""
    script, log = tmp_path / "python", tmp_path / "python.log"
    script.write_text(SLOW_TO_STOP)
    script.chmod(0o755)
    # A test run in the background may have Ctrl-C ignored, and its children with it.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from evil_moe.experiment.commands import compare; "
    code += f"sys.exit(compare._command([{str(script)!r}], ['train']))"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, start_new_session=True)
    deadline = time.monotonic() + 60
    while not log.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    if to_group:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.terminate()
    assert process.wait(60) == 130
    assert log.read_text() == "started\nended\n"


def test_hypotheses_of_ones_own_are_passed_on_to_the_runs(tmp_path: Path, commands: Commands) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("hypotheses:\n- {id: a, says: b, quantity: none.on.hack, at_most: 1}\n")
    assert compare(["arms=[none]", "seeds=[4]", "evil_moe.pin.weight=0"], None, path, program=PROGRAM) == 1
    assert commands == [["train", "--prereg", str(path), "arm=none", "seed=4", "evil_moe.pin.weight=0"]]
    path.write_text("hypotheses: []\n")
    with pytest.raises(RunFolderError, match="has no list `hypotheses`"):
        compare(["arms=[none]", "seeds=[4]"], None, path, program=PROGRAM)
    assert len(commands) == 1, "refused before a run"


@pytest.mark.parametrize(
    ("arm", "side"),
    [("none", "on"), ("rebound", "on"), ("router", "off"), ("absorb", "off"), ("discardable", "off")],
)
def test_the_report_reads_from_a_config_what_is_deployed(tmp_path: Path, arm: str, side: str) -> None:
    OmegaConf.save(compose([f"arm={arm}"]), tmp_path / "config.yaml", resolve=True)
    assert load_run(tmp_path).deployed == side


@pytest.mark.slow
def test_a_failed_run_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    # Refused before anything is started: there is no such model.
    command = [sys.executable, "-m", "recipe.cli", "compare", "arms=[none,router]", "seeds=[0]"]
    command += ["evil_moe.policy.kind=hub", f"actor_rollout_ref.model.path={tmp_path}/no-model"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    assert done.stdout.count("failed, see above; going on with the next") == 2
    assert "2 of 2 runs failed: none, seed 0; router, seed 0." in done.stdout
