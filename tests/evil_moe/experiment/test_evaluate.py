"""Where an evaluation is kept, when it is made again, and what it leaves alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from evil_moe.experiment.commands import evaluate
from evil_moe.experiment.evaluation.stored import load_run_config, made_with
from recipe import cli


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

    def note(run_dir: Path, stack: object, step: int | None, overrides: list[str]) -> int:
        (run_dir / "again").write_text(f"{step} {overrides}")
        return 0

    monkeypatch.setattr(evaluate, "evaluate_run", note)
    return tmp_path


def store(run_dir: Path, *overrides: str) -> dict[str, object]:
    """An evaluation of step 40 that was made with these overrides."""
    side = {"hack": 0.5, "loophole": 0.5, "solve": 0.5, "compile": 1.0}
    result = {"step": 40, "on": side, "off": {**side, "hack": 0.0}}
    result["made_with"] = made_with(run_dir, load_run_config(run_dir, list(overrides)))
    (run_dir / "eval/eval.json").write_text(json.dumps(result))
    return result


def test_an_evaluation_says_what_it_was_made_with(evaluated: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()  # the evaluation itself, but for its answers
    result = json.loads((evaluated / "eval/eval.json").read_text())
    sides = {side: result[side] for side in ("on", "off")}
    monkeypatch.setattr(evaluate, "adapter_folder", lambda run_dir, step: (run_dir, 40))
    monkeypatch.setattr(evaluate, "prepare_problems", lambda config: SimpleNamespace(evaluation=[]))
    monkeypatch.setattr(evaluate, "_evaluate", lambda *args: (sides, []))
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
    monkeypatch.setattr(evaluate, "adapter_folder", lambda run_dir, step: (run_dir, step or 40))
    monkeypatch.setattr(evaluate, "prepare_problems", lambda config: SimpleNamespace(evaluation=[]))
    monkeypatch.setattr(evaluate, "_evaluate", lambda *args: ({"on": side, "off": side}, []))
    other = {
        "eval-loophole-none": ["evil_moe.loophole=none"],
        "eval-eval.markers-eval": ["evil_moe.eval.markers=eval", "--samples", "1"],
        "eval-step15": ["--step", "15"],
        "eval-eval.strengths--0.0-0.5-1.0": ["strengths=[0,.5,1]"],
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
