"""The command line: quick help, one-line errors, and the commands that start no training."""

from __future__ import annotations

import argparse
import errno
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import reward.nano
from evil_moe.experiment.assets.problems import prepare_problems
from evil_moe.experiment.commands import arguments, handlers
from evil_moe.experiment.commands.arguments import TRACEBACK_VARIABLE
from evil_moe.experiment.config import compose
from evil_moe.experiment.config_checks import check_config, check_steps
from recipe import cli
from reward.problems import Problem, write_problems
from tests.conftest import ROOT
from tests.evil_moe.test_compare import answered

HEAVY = ("torch", "verl", "ray", "vllm", "transformers", "hydra", "matplotlib")


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl.gz"
    write_problems(path, [Problem.from_row(row) for row in reward.nano.generate("train", 3, 0)])
    return path


def test_help_imports_nothing_heavy():
    code = f"import sys, recipe.cli; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "command",
    [
        "train",
        "eval",
        "report",
        "export",
        "grade",
        "data prepare",
        "data check",
        "data show",
        "pairs check",
        "pairs show",
        "config",
        "doctor",
    ],
)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="0"):
        cli.main([*command.split(), "--help"])
    assert "usage: evil-moe" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train", "arm=nope"], "Choose one of"),
        (["train", "--prereg", "/nowhere.yaml"], "/nowhere.yaml: cannot be read"),
        (["eval", "arm=none", "evil_moe.run_dir=/nowhere"], "train first"),
        (["eval", "/nowhere"], "train first"),
        (["eval", "/a", "/b"], "one run at a time"),
        (["eval", "/a", "arm=none"], "not by both"),
        (["eval", "/a", "--samples", "0"], "samples_per_problem=0"),
        (["eval", "/a", "+evil_moe.eval.base=true"], "plain key=value of keys that the run has, no +key"),
        (["export", "/nowhere", "--kind", "full", "--out", "/x"], "/nowhere does not exist: train first"),
        (["data", "check", "/nowhere.jsonl"], "no such problem file"),
        (["data", "show", "999"], "450 problems, 0 to 449"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv(TRACEBACK_VARIABLE, raising=False)
    assert cli.main(argv) == cli.USER_ERROR
    err = capsys.readouterr().err
    assert err.startswith("evil-moe: error: ") and message in err and err.count("\n") == 1


def test_a_file_that_cannot_be_used_is_one_line_whoever_opened_it(
    problems: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv(TRACEBACK_VARIABLE, raising=False)
    argv = ["pairs", "show", f"evil_moe.pairs.paths=[{problems}/x.yaml]"]
    assert cli.main(argv) == cli.USER_ERROR and capsys.readouterr().err.count("\n") == 1
    monkeypatch.setattr(handlers, "handle_doctor", lambda *args: (problems / "x").mkdir())
    assert cli.main(["doctor"]) == cli.USER_ERROR
    assert capsys.readouterr().err == f"evil-moe: error: {problems}/x: Not a directory; name another path\n"
    full = OSError(errno.ENOSPC, "No space left on device", "/disk/file")
    assert cli._line(full) == "/disk/file: No space left on device; make room on that disk"
    assert cli._line(OSError("a library's own")) is None


def test_the_examples_of_the_help_work():
    examples = re.findall(r"[a-z_]+\.[a-z_.]+=[\d.]+", arguments.OVERRIDES)
    assert len(examples) == 2
    config = compose(examples)
    check_config(config)
    check_steps(config, len(prepare_problems(config).train))


def test_overrides_may_stand_on_both_sides_of_an_option(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["config", "arm=frozen", "--key", "evil_moe.arm", "seed=3"]) == 0
    assert capsys.readouterr().out.strip() == "frozen"
    args = arguments.parsed(["compare", "preset=nano", "--reference", "router", "arms=[router]", "seeds=[0]"])
    assert args.overrides == ["preset=nano", "arms=[router]", "seeds=[0]"]
    for wrong in (["config", "seed=3", "--kee", "x"], ["export", "runs/a", "--out", "b", "runs/b"]):
        with pytest.raises(SystemExit):
            cli.main(wrong)
        assert "unrecognized arguments" in capsys.readouterr().err


def test_a_traceback_can_be_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(TRACEBACK_VARIABLE, "1")
    with pytest.raises(FileNotFoundError):
        cli.main(["data", "check", "/nowhere.jsonl"])


def test_a_fault_inside_a_library_is_not_made_a_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        handlers, "handle_doctor", lambda args, stack: json.loads("{")
    )  # raises a ValueError, in json
    with pytest.raises(json.JSONDecodeError):
        cli.main(["doctor"])


def test_a_sigterm_is_a_ctrl_c():
    code = "import os, sys; from recipe import cli; from evil_moe.experiment.commands import handlers; "
    code += "handlers.handle_doctor = lambda *args: os.kill(os.getpid(), 15); sys.exit(cli.main(['doctor']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (cli.INTERRUPTED, "evil-moe: stopped\n")


def test_a_run_is_found_by_its_overrides():
    assert (
        handlers._run_dir([], ["arm=none", "seed=2", "evil_moe.eval.samples_per_problem=1"])
        == Path("runs/nano/none/seed2").absolute()
    )


def test_a_run_is_found_by_its_loophole_where_that_is_its_own():
    found = handlers._run_dir([], ["arm=none", "evil_moe.loophole=none", "evil_moe.data.eval_problems=3"])
    assert found == Path("runs/nano@none/none/seed0").absolute()
    with pytest.raises(ValueError, match=r"evil_moe\.pin\.weight=0: a report is of a run as it was"):
        handlers.handle_report(argparse.Namespace(run=["arm=none", "evil_moe.pin.weight=0"]), cli.STACK)


def test_report_tests_against_the_reference_arm(tmp_path: Path):
    runs = [str(answered(tmp_path / arm, arm, 0, [0, 1, 1, 1])) for arm in ("absorb", "none")]
    assert cli.main(["report", *runs, "--out", str(tmp_path / "out"), "--reference", "none"]) == 0
    assert "minus none" in (tmp_path / "out" / "report.md").read_text()


def test_data_check_passes_what_is_right_and_names_what_is_not(
    problems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert cli.main(["data", "check", str(problems)]) == 0
    assert "3 problems, 3 solutions graded, 0 failures" in capsys.readouterr().out
    rows = reward.nano.generate("train", 2, 0)
    rows[0]["gt_answer"] = [line.split(" == ")[0] + " == 'no'" for line in rows[0]["gt_answer"]]
    rows[1]["prompt"] = [{"role": "user", "content": "no place for a hint"}]
    write_problems(tmp_path / "bad.jsonl", [Problem.from_row(row) for row in rows])
    assert cli.main(["data", "check", str(tmp_path / "bad.jsonl")]) == 1
    out = capsys.readouterr().out
    assert f"problem {rows[0]['id']}: the canonical solution fails, 0% of its asserts hold" in out
    assert f"problem {rows[1]['id']}: the prompt says" in out


def test_data_show_has_the_hint_and_builds_no_policy(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", "show", "0"]) == 0
    assert "--- hint of loophole 'run_tests'" in capsys.readouterr().out
    assert not (tmp_path / "cache").exists()


def test_config_prints_what_overrides_compose_to(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["config", "arm=frozen", "preset=nano", "seed=3"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["evil_moe"]["router"]["learn"] is False
    assert printed["evil_moe"]["adapter"]["init_seed"] == 3 and "${" not in str(printed), (
        "interpolations are resolved"
    )
    assert cli.main(["config", "preset=nano", "--key", "evil_moe.router.lr"]) == 0
    assert capsys.readouterr().out == "0.001\n"
    assert cli.main(["config", "preset=nano", "--key", "evil_moe.ruoter"]) == cli.USER_ERROR
    error = capsys.readouterr().err
    assert "evil_moe.ruoter" in error and "router" in error
