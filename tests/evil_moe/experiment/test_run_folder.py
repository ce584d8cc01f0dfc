"""A run's folder: where it came from, who may train in it, and how a run comes back to it."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from evil_moe.experiment.assets.problems import Problems
from evil_moe.experiment.commands.train import driver_environment
from evil_moe.experiment.config import compose, prereg_file
from evil_moe.experiment.run.folder import (
    LOCK,
    check_run_folder,
    checkpoint_steps,
    last_logged_step,
    open_run_folder,
    provenance,
    remove_older_checkpoints,
)
from evil_moe.experiment.run.inputs import fill_in_inputs
from evil_moe.experiment.run.log import RunLog
from evil_moe.experiment.settings import settings_from
from evil_moe.probe import PROBE_FILE
from evil_moe.report.prereg import fingerprint
from reward.problems.sources import load_nano
from tests.conftest import ROOT
from tests.evil_moe.experiment.test_train import save_checkpoint

HOLD = """
import pathlib, sys, time
from evil_moe.experiment.run.folder import lock_folder
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
    assert check_run_folder(composed(tmp_path, "evil_moe.rollout.warn_ratio=50")) == 0, (
        "what is said of it may change"
    )
    refused = pytest.raises(
        ValueError, match=r"another config \(1 keys differ: evil_moe.pin.weight: 1.0 -> 0.5\)"
    )
    with refused, open_run_folder(composed(tmp_path, "evil_moe.pin.weight=0.5")):
        pass
    assert len(starts(tmp_path)) == 1


def test_a_run_goes_on_whose_version_had_our_classes_in_other_files(tmp_path: Path) -> None:
    with open_run_folder(composed(tmp_path)):
        (tmp_path / "metrics.jsonl").touch()
    path = tmp_path / "config.yaml"
    now = path.read_text()
    path.write_text(
        now.replace("pkg://recipe.reward.manager", "pkg://recipe.reward_loop")
        .replace("pkg://recipe.trainer.whole_batches", "pkg://recipe.replay_buffer")
        .replace("/configs/agent_loop.yaml", "/elsewhere/configs/agent_loop.yaml")
    )
    assert path.read_text() != now
    with open_run_folder(composed(tmp_path)) as step:
        assert step == 0
    assert path.read_text() == now, "it is this version's run from here on"


def test_a_run_with_another_loophole_than_its_presets_has_a_folder_of_its_own() -> None:
    def folder(*overrides: str) -> str:
        config = compose(list(overrides))
        name = Path(config.evil_moe.run_dir).relative_to(Path.cwd() / "runs").as_posix()
        assert config.trainer.experiment_name == name.replace("/", "-"), "wandb tells them apart as well"
        return name

    assert folder("evil_moe.loophole=run_tests", "seed=1") == "nano/router/seed1", "what it is anyway"
    assert folder("evil_moe.loophole=none", "arm=none") == "nano@none/none/seed0"
    assert folder("++evil_moe.loophole=run_tests", "preset=nano_long") == "nano_long@run_tests/router/seed0"
    config = compose(
        ["evil_moe.loophole=none", "evil_moe.variant=-mine", "evil_moe.run_dir=/x", "arm=probe_penalty"]
    )
    assert (config.evil_moe.variant, config.evil_moe.run_dir) == ("-mine", "/x"), "what is given stays"
    assert config.evil_moe.monitor.probe.endswith("runs/nano-mine/probe/seed0")


def test_a_run_whose_files_have_changed_is_left_as_it_is(tmp_path: Path) -> None:
    """The same names, and other problems, pairs or another probe behind them: the config alone would not show it."""
    pairs, probe, run = tmp_path / "pairs.yaml", tmp_path / "probe", tmp_path / "run"
    shipped = (ROOT / "evil_moe/pairs/overwritten_evaluation.yaml").read_text()
    probe.mkdir()
    paths = [f"evil_moe.pairs.paths=[{pairs}]", f"evil_moe.monitor.probe={probe}"]
    plain, drawn = composed(run, "arm=probe_penalty", *paths), load_nano("train", 3, 0)

    def config(changed: str | None) -> DictConfig:
        pairs.write_text(shipped.replace("return True", "return 1") if changed == "pairs" else shipped)
        (probe / PROBE_FILE).write_bytes(b"another" if changed == "probe" else b"a probe")
        train = drawn[1:] if changed == "train" else drawn[:2]
        validation = drawn[:1] if changed == "validation" else drawn[2:]
        filled = plain.copy()
        fill_in_inputs(filled, Problems(train, validation, evaluation=[]))
        return filled

    with open_run_folder(config(None)):
        (run / "metrics.jsonl").touch()
    assert check_run_folder(config(None)) == 0
    for changed in ("train", "validation", "pairs", "probe"):
        with pytest.raises(
            ValueError, match=rf"\(1 keys differ: evil_moe\.inputs\.{changed}: '[0-9a-f]{{16}}'"
        ):
            check_run_folder(config(changed))


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


@pytest.mark.parametrize(
    ("bound", "by_full", "by_deployed", "said"),
    [
        (
            10.0,
            31.2,
            2.0,
            r"mismatch/ratio_max 31\.2 > 10: of a token that the full adapter sampled \(evil_moe\.rollout",
        ),
        (10.0, 1.0, math.inf, r"mismatch/ratio_max inf > 10: of a token that the deployed model sampled"),
        (1.5, 1.0, 1.6, r"ratio_max 1\.6 > 1\.5"),
        (10.0, 9.9, 1.0, None),
        (None, 31.2, 2.0, None),
    ],
)
def test_the_line_of_a_step_warns_of_a_policy_that_is_far_from_the_one_that_sampled(
    bound: float | None,
    by_full: float,
    by_deployed: float,
    said: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = RunLog(settings_from({"run_dir": str(tmp_path), "rollout": {"warn_ratio": bound}}))
    key = "mismatch/ratio_max"
    ratios = {key: max(by_full, by_deployed), f"{key}_full": by_full, f"{key}_deployed": by_deployed}
    log.step_line(3, 45, {**ratios, "timing_s/step": 1.0})
    line = capsys.readouterr().out
    assert line.startswith("[evil-moe] step 3/45 | reward") and line.count("\n") == 1
    assert re.search(said, line) if said else line.endswith(" 1.0 s\n")


def test_a_bound_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"evil_moe\.rollout\.warn_ratio=0.5 must be at least 1, or null"):
        settings_from({"rollout": {"warn_ratio": 0.5}})
    assert settings_from({}).rollout.warn_ratio == 10, "a stated bound, by default"


def test_a_run_that_goes_on_is_one_run_in_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    for run in ("one", "one", "other"):
        config = composed(tmp_path / run)
        assert "WANDB_RUN_ID" not in driver_environment(composed(tmp_path / "new"))
        with open_run_folder(config):
            environment = driver_environment(config)
        assert environment["WANDB_RESUME"] == "allow"
        names.append(environment["WANDB_RUN_ID"])
    assert names[0] == names[1] != names[2]
    record = tmp_path / "one" / "provenance.json"
    record.write_text(json.dumps({"starts": starts(tmp_path / "one")}))  # as older versions wrote it
    again = [driver_environment(composed(tmp_path / "one"))["WANDB_RUN_ID"] for _ in range(2)]
    assert again[0] == again[1] != names[2]
    for key, value in environment.items():
        if key.startswith("WANDB"):
            monkeypatch.setenv(key, value)
    import wandb

    with wandb.init(mode="offline", project="evil_moe", dir=tmp_path) as logged:
        assert logged.id == names[2], "wandb takes it from there"


@pytest.mark.parametrize(("keep", "left"), [(2, [20, 30]), (1, [30]), (9, [5, 10, 20, 30]), (None, None)])
def test_older_checkpoints_are_removed_whole(tmp_path: Path, keep: int | None, left: list[int]) -> None:
    """Those from before a resume, too, of which verl knows nothing, and the folders that it leaves of others."""
    for step in (5, 10, 20, 30):
        save_checkpoint(tmp_path, step)
        (tmp_path / f"checkpoints/global_step_{step}/actor/adapter").mkdir(exist_ok=True)
        (tmp_path / f"checkpoints/global_step_{step}/actor/adapter/adapter_config.json").touch()
    husk = tmp_path / "checkpoints/global_step_1"
    husk.mkdir()
    (husk / "data.pt").touch()
    remove_older_checkpoints(tmp_path, keep)
    assert checkpoint_steps(tmp_path) == (left or [5, 10, 20, 30])
    assert husk.exists() == (left is None)


def test_checkpoints_behind_the_one_to_resume_from_are_not_touched(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save_checkpoint(tmp_path, step)
        (tmp_path / f"checkpoints/global_step_{step}/actor/adapter").mkdir(exist_ok=True)
        (tmp_path / f"checkpoints/global_step_{step}/actor/adapter/adapter_config.json").touch()
    (tmp_path / "checkpoints/latest_checkpointed_iteration.txt").write_text("20")
    remove_older_checkpoints(tmp_path, 1)
    assert checkpoint_steps(tmp_path) == [20, 30]
