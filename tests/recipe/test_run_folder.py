"""A run's folder: where it came from, who may train in it, and how a run comes back to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from evil_moe.report.prereg import fingerprint
from recipe.config import compose, prereg_file
from recipe.run_folder import LOCK, last_logged_step, open_run_folder, provenance
from recipe.run_log import RunLog
from recipe.settings import settings_from
from tests.conftest import ROOT
from tests.recipe.test_train_start import save_checkpoint

HOLD = """
import pathlib, sys, time
from recipe.run_folder import lock_folder
with lock_folder(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def composed(folder: Path, *overrides: str) -> DictConfig:
    return compose([f"evil_moe.run_dir={folder}", *overrides])


def starts(folder: Path) -> list[object]:
    return json.loads((folder / "provenance.json").read_text())["starts"]


def test_one_process_at_a_time_trains_in_a_folder_and_a_killed_one_leaves_it_free(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        refused = pytest.raises(ValueError, match=f"process {other.pid} is training in {tmp_path}: wait")
        with refused, open_run_folder(composed(tmp_path)):
            pass
        assert [path.name for path in tmp_path.iterdir()] == [LOCK], "nothing else was written"
        other.kill()
    for _ in range(2):  # a folder that was left in good order is free as well
        with open_run_folder(composed(tmp_path)) as step:
            assert step == 0
    assert len(starts(tmp_path)) == 2


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with open_run_folder(composed(run, "trainer.total_training_steps=4")):
        save_checkpoint(run, 4)
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert set(before) == {"config.yaml", "provenance.json", LOCK} and len(starts(run)) == 1
    with open_run_folder(composed(run, "trainer.total_training_steps=3")) as step:
        assert step == 4
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
    with open_run_folder(composed(run, "trainer.total_training_steps=5")) as step:
        assert step == 4 and len(starts(run)) == 2, "more steps were asked for: it starts again"


def test_a_run_with_another_config_is_left_as_it_is(tmp_path: Path) -> None:
    with open_run_folder(composed(tmp_path)):
        (tmp_path / "metrics.jsonl").touch()
    refused = pytest.raises(ValueError, match=r"another config \(.*evil_moe.pin.weight: 1.0 -> 0.5")
    with refused, open_run_folder(composed(tmp_path, "evil_moe.pin.weight=0.5")):
        pass
    assert len(starts(tmp_path)) == 1


def test_a_run_whose_learning_rate_ends_with_it_is_not_made_longer(tmp_path: Path) -> None:
    cosine = "actor_rollout_ref.actor.optim.lr_scheduler_type=cosine"
    with open_run_folder(composed(tmp_path, cosine, "trainer.total_training_steps=4")):
        save_checkpoint(tmp_path, 4)
    with pytest.raises(ValueError, match=r"another config \(.*total_training_steps: 4 -> 5"):
        open_run_folder(composed(tmp_path, cosine, "trainer.total_training_steps=5")).__enter__()


def test_a_line_that_was_cut_short_is_not_written_behind(tmp_path: Path) -> None:
    path, settings = tmp_path / "metrics.jsonl", settings_from({"run_dir": str(tmp_path)})
    for whole in ("", '{"step": 1, "data": {"a": 1.0}}\n'):
        path.write_text(whole + '{"step": 2, "da')
        RunLog(settings).metrics(2, {"a": 2.0})
        assert path.read_text() == whole + '{"step": 2, "data": {"a": 2.0}}\n'
        assert last_logged_step(tmp_path) == 2


def test_provenance_has_the_hash_of_the_hypotheses(tmp_path: Path) -> None:
    config, mine = compose([]), tmp_path / "mine.yaml"
    mine.write_text("hypotheses: []\n")
    shipped = prereg_file("nano")
    assert shipped is not None and provenance(config)["prereg"] == fingerprint(shipped)
    assert provenance(config, mine)["prereg"] == fingerprint(mine) != fingerprint(shipped)


def test_provenance_names_the_machine_that_times_depend_on(tmp_path: Path) -> None:
    machine = provenance(compose([]))["machine"]
    assert machine["cpu"] and machine["cpus"] == os.cpu_count() and machine["memory_gib"] > 1
    assert len(machine["gpus"]) == torch.cuda.device_count()
