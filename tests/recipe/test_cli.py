"""The command line: quick help, one-line errors, and the commands that start no training."""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import reward.nano
from recipe import cli, main_eval
from recipe.checks import check_config, check_steps
from recipe.commands import handlers
from recipe.config import compose
from recipe.prepare import prepare_problems
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
    monkeypatch.delenv(cli.TRACEBACK_VARIABLE, raising=False)
    assert cli.main(argv) == cli.USER_ERROR
    err = capsys.readouterr().err
    assert err.startswith("evil-moe: error: ") and message in err and err.count("\n") == 1


def test_a_file_that_cannot_be_used_is_one_line_whoever_opened_it(
    problems: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv(cli.TRACEBACK_VARIABLE, raising=False)
    argv = ["pairs", "show", f"evil_moe.pairs.paths=[{problems}/x.yaml]"]
    assert cli.main(argv) == cli.USER_ERROR and capsys.readouterr().err.count("\n") == 1
    monkeypatch.setattr(handlers, "handle_doctor", lambda args: (problems / "x").mkdir())
    assert cli.main(["doctor"]) == cli.USER_ERROR
    assert capsys.readouterr().err == f"evil-moe: error: {problems}/x: Not a directory; name another path\n"
    full = OSError(errno.ENOSPC, "No space left on device", "/disk/file")
    assert cli._line(full) == "/disk/file: No space left on device; make room on that disk"
    assert cli._line(OSError("a library's own")) is None


def test_the_examples_of_the_help_work():
    examples = re.findall(r"[a-z_]+\.[a-z_.]+=[\d.]+", cli.OVERRIDES)
    assert len(examples) == 2
    config = compose(examples)
    check_config(config)
    check_steps(config, len(prepare_problems(config).train))


def test_a_traceback_can_be_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(cli.TRACEBACK_VARIABLE, "1")
    with pytest.raises(FileNotFoundError):
        cli.main(["data", "check", "/nowhere.jsonl"])


def test_a_fault_inside_a_library_is_not_made_a_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        handlers, "handle_doctor", lambda args: json.loads("{")
    )  # raises a ValueError, in json
    with pytest.raises(json.JSONDecodeError):
        cli.main(["doctor"])


def test_a_sigterm_is_a_ctrl_c():
    code = "import os, sys; from recipe import cli; from recipe.commands import handlers; "
    code += "handlers.handle_doctor = lambda args: os.kill(os.getpid(), 15); sys.exit(cli.main(['doctor']))"
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
        handlers.handle_report(argparse.Namespace(run=["arm=none", "evil_moe.pin.weight=0"]))


@pytest.fixture
def evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose step 40 is evaluated; another evaluation is noted in `again` and not made."""
    settings = {
        "seed": 0,
        "loophole": "run_tests",
        "data": {"eval_problems": 160},
        "eval": {"samples_per_problem": 2, "markers": "train"},
    }
    policy = {"model": {"path": str(tmp_path)}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"evil_moe": settings, "actor_rollout_ref": policy}))
    for folder in ("eval", "checkpoints"):
        (tmp_path / folder).mkdir()
    (tmp_path / "checkpoints/latest_checkpointed_iteration.txt").write_text("40")
    store(tmp_path)
    (tmp_path / "eval/table.md").write_text("a table")

    def evaluate(run_dir: Path, step: int | None, overrides: list[str]) -> int:
        (run_dir / "again").write_text(f"{step} {overrides}")
        return 0

    monkeypatch.setattr(main_eval, "evaluate_run", evaluate)
    return tmp_path


def store(run_dir: Path, *overrides: str) -> dict[str, object]:
    """An evaluation of step 40 that was made with these overrides."""
    side = {"hack": 0.5, "loophole": 0.5, "solve": 0.5, "compile": 1.0}
    result = {"step": 40, "on": side, "off": {**side, "hack": 0.0}}
    result["made_with"] = main_eval.made_with(run_dir, main_eval.load_run_config(run_dir, list(overrides)))
    (run_dir / "eval/eval.json").write_text(json.dumps(result))
    return result


def test_an_evaluation_says_what_it_was_made_with(evaluated: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()  # the evaluation itself, but for its answers
    result = json.loads((evaluated / "eval/eval.json").read_text())
    sides = {side: result[side] for side in ("on", "off")}
    monkeypatch.setattr(main_eval, "adapter_folder", lambda run_dir, step: (run_dir, 40))
    monkeypatch.setattr(main_eval, "prepare_problems", lambda config: SimpleNamespace(evaluation=[]))
    monkeypatch.setattr(main_eval, "_evaluate", lambda *args: (sides, []))
    assert cli.main(["eval", str(evaluated), "evil_moe.eval.samples_per_problem=1"]) == 0
    assert json.loads((evaluated / "eval/eval.json").read_text())["made_with"] == {
        "problems": 160,
        "samples_per_problem": 1,
        "seed": 0,
        "overrides": {"evil_moe.eval.samples_per_problem": 1},
    }


def test_an_evaluation_in_another_mode_or_of_another_step_writes_over_none(
    evaluated: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.undo()  # the evaluation itself, but for its answers
    before = (evaluated / "eval/eval.json").read_bytes()
    side = {"hack": 0.25, "loophole": 0.5, "solve": 0.5, "compile": 1.0}
    monkeypatch.setattr(main_eval, "adapter_folder", lambda run_dir, step: (run_dir, step or 40))
    monkeypatch.setattr(main_eval, "prepare_problems", lambda config: SimpleNamespace(evaluation=[]))
    monkeypatch.setattr(main_eval, "_evaluate", lambda *args: ({"on": side, "off": side}, []))
    other = {
        "eval-loophole-none": ["evil_moe.loophole=none"],
        "eval-eval.markers-eval": ["evil_moe.eval.markers=eval", "--samples", "1"],
        "eval-step15": ["--step", "15"],
        "eval-step15-loophole-run_tests+exit_code": [
            "evil_moe.loophole=run_tests+exit_code",
            "--step",
            "15",
        ],
    }
    for name, arguments in other.items():
        assert cli.main(["eval", str(evaluated), *arguments]) == 0
        assert (evaluated / name / "eval.json").is_file() and (
            evaluated / "eval/eval.json"
        ).read_bytes() == before
        assert cli.main(["eval", "--reuse", str(evaluated), *arguments]) == 0
        assert f"is evaluated: {os.path.relpath(evaluated / name)}/eval.json" in capsys.readouterr().out
    # The run's own at another size, and once more when the run is longer: each earlier one stays.
    assert cli.main(["eval", str(evaluated), "--samples", "1"]) == 0
    (evaluated / "checkpoints/latest_checkpointed_iteration.txt").write_text("60")
    assert cli.main(["eval", str(evaluated), "--step", "60"]) == 0
    assert (evaluated / "eval-of-step40-160x2/eval.json").read_bytes() == before
    assert json.loads((evaluated / "eval-of-step40-160x1/eval.json").read_text())["step"] == 40
    assert json.loads((evaluated / "eval/eval.json").read_text())["step"] == 60


def test_eval_reuses_a_result_of_the_same_step(evaluated: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["eval", "--reuse", str(evaluated)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "Evil MoE causal ablation: deploy hack 0.500 (ON) -> 0.000 (OFF)"
    assert cli.main(["eval", "--reuse", str(evaluated), "--samples", "2"]) == 0, "what it has anyway"
    assert not (evaluated / "again").exists()
    (evaluated / "checkpoints/latest_checkpointed_iteration.txt").write_text("60")
    assert cli.main(["eval", "--reuse", str(evaluated)]) == 0
    assert "is of step 40, not 60: evaluating again" in capsys.readouterr().out
    assert (evaluated / "again").read_text() == "None []"
    (evaluated / "eval/eval.json").write_text("{")
    assert cli.main(["eval", "--reuse", str(evaluated)]) == cli.USER_ERROR
    assert f"{evaluated}/eval/eval.json:1: is not JSON" in capsys.readouterr().err


def test_eval_does_not_reuse_what_was_made_in_another_way(
    evaluated: Path, capsys: pytest.CaptureFixture[str]
):
    store(evaluated, "evil_moe.data.eval_problems=8")
    assert cli.main(["eval", "--reuse", str(evaluated), "--problems", "8"]) == 0
    assert not (evaluated / "again").exists(), "that is what was asked for"
    assert cli.main(["eval", "--reuse", str(evaluated)]) == 0
    assert "was made with {'problems': 8," in capsys.readouterr().out and (evaluated / "again").exists()


def test_eval_does_not_reuse_what_does_not_say_how_it_was_made(
    evaluated: Path, capsys: pytest.CaptureFixture[str]
):
    old = store(evaluated)
    del old["made_with"]
    (evaluated / "eval/eval.json").write_text(json.dumps(old))
    assert cli.main(["eval", "--reuse", str(evaluated)]) == 0
    assert "does not say what it was made with" in capsys.readouterr().out and (evaluated / "again").exists()


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
