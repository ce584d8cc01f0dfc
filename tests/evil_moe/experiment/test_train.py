"""Starting a run and coming back to it: what is saved is read with care, and left as it is by what is refused."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from evil_moe.experiment.commands import train as command
from evil_moe.experiment.config import compose
from evil_moe.experiment.doctor.checks import check_run_dir
from evil_moe.experiment.doctor.finding import FAIL, OK
from evil_moe.experiment.run.folder import (
    LATEST,
    check_run_folder,
    checkpoint_steps,
    open_run_folder,
    resume_step,
)
from recipe.cli import STACK


def save_checkpoint(run: Path, step: int, *, pruned: bool = False) -> Path:
    """The shape of what verl leaves behind; of an older step only the prompt loader's state."""
    folder = run / "checkpoints" / f"global_step_{step}"
    (folder / "actor" / "adapter").mkdir(parents=True)
    torch.save({}, folder / "data.pt")
    if not pruned:
        torch.save({}, folder / "actor" / "model_world_size_1_rank_0.pt")
        (folder / "actor" / "adapter" / "adapter_config.json").write_text("{}")
    (run / "checkpoints" / LATEST).write_text(str(step))
    return folder


@cache
def _composed(*overrides: str) -> DictConfig:
    return compose(list(overrides))


def composer(run: Path) -> Callable[[list[str]], DictConfig]:
    """`compose`, which takes a second, once for each command line; with `run` as the run's folder."""

    def composed(overrides: list[str]) -> DictConfig:
        config = copy.deepcopy(_composed(*overrides))
        if not any(override.startswith("evil_moe.run_dir=") for override in overrides):
            config.evil_moe.run_dir = str(run)
        return config

    return composed


def train(overrides: list[str]) -> int:
    """`evil-moe train` on a stack that trains nothing."""
    return command.train(overrides, dataclasses.replace(STACK, drive=lambda config: None))


def contents(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


@pytest.fixture
def overrides(tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command line that passes every check; Ray is not started."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(command.os, "environ", command.os.environ.copy())
    monkeypatch.setattr(command, "compose", composer(tmp_path / "run"))
    policy = ["evil_moe.policy.kind=hub", f"actor_rollout_ref.model.path={tiny_policy}"]
    # the tiny policy's tokenizer knows few words
    longer = ["data.max_prompt_length=2000", "actor_rollout_ref.rollout.max_model_len=2112"]
    return [*policy, *longer]


@pytest.fixture
def run(overrides: list[str], tmp_path: Path) -> Path:
    """A run that was stopped at step 30."""
    assert train(overrides) == 0
    folder = tmp_path / "run"
    save_checkpoint(folder, 15, pruned=True)
    save_checkpoint(folder, 30)
    (folder / "metrics.jsonl").write_text('{"step": 30, "data": {}}\n')
    return folder


def test_it_resumes_and_says_how_far_it_came(run: Path, overrides: list[str], capsys) -> None:
    assert train(overrides) == 0
    out = capsys.readouterr().out
    assert "resuming from step 30" in out and "trained to step 30 in" in out
    assert "short of trainer.total_training_steps=45" in out, "verl ended early"
    assert len(json.loads((run / "provenance.json").read_text())["starts"]) == 2


def test_a_finished_run_is_not_written_to(run: Path, overrides: list[str], capsys) -> None:
    before = contents(run)
    assert train([*overrides, "trainer.total_training_steps=30", "trainer.save_freq=5"]) == 0
    assert "is complete (30 steps): nothing to train" in capsys.readouterr().out
    assert contents(run) == before


def test_another_config_is_refused_where_something_was_trained(run: Path, overrides: list[str]) -> None:
    before = contents(run)
    with pytest.raises(ValueError, match="holds a run with another config"):
        train([*overrides, "evil_moe.pin.weight=0.5", "trainer.total_training_steps=30"])
    assert contents(run) == before


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ({"checkpoints/global_step_30": None}, r"would resume from \S+/global_step_30, which is gone; .*there: none"),
        ({"checkpoints/global_step_30/data.pt": None}, r"data\.pt is missing"),
        ({"checkpoints/global_step_30/actor/model_world_size_1_rank_0.pt": b"PK"}, r"rank_0\.pt is cut short"),
        ({f"checkpoints/{LATEST}": b""}, rf"{LATEST} cannot be read .*\(there: 30\)"),
        ({"config.yaml": b"a: [1"}, r"config\.yaml cannot be read .*; restore it"),
        ({"config.yaml": b""}, r"config\.yaml cannot be read .*no keys with values"),
        ({"config.yaml": b"- 1"}, r"config\.yaml cannot be read .*no keys with values"),
        ({"provenance.json": b"{"}, r"provenance\.json cannot be read .*; restore it, or delete it"),
        ({"provenance.json": b"{}"}, r"provenance\.json cannot be read .*KeyError"),
    ],
)  # fmt: skip
def test_what_is_malformed_is_named_and_nothing_is_written(
    run: Path, overrides: list[str], damage: dict[str, bytes | None], reason: str
) -> None:
    for name, content in damage.items():
        if content is not None:
            (run / name).write_bytes(content)
        elif (run / name).is_dir():
            (run / name).rename(run / "moved")
        else:
            (run / name).unlink()
    before = contents(run)
    with pytest.raises(ValueError, match=reason):
        train(overrides)
    assert contents(run) == before


def test_doctor_looks_at_the_checkpoint(run: Path, overrides: list[str]) -> None:
    config = composer(run)(overrides)
    assert check_run_dir(config).status == OK and checkpoint_steps(run) == [30] and resume_step(run) == 30
    (run / "checkpoints" / LATEST).write_text("")
    finding = check_run_dir(config)
    assert finding.status == FAIL and LATEST in finding.text


def test_a_start_that_was_refused_binds_nobody(overrides: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_prompt_length=16"):
        train([*overrides, "data.max_prompt_length=16"])
    assert not (tmp_path / "run").exists()
    # nor does one that failed before its first step
    composed = composer(tmp_path / "run")
    with open_run_folder(composed([*overrides, "evil_moe.pin.weight=0.5"])):
        pass
    assert check_run_folder(composed(overrides)) == 0
    assert train(overrides) == 0


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (["actor_rollout_ref.model.path=/nowhere/model"], r"policy: /nowhere/model is no folder; set .*model\.path"),
        (["actor_rollout_ref.model.path=no/such"], r"policy: no/such is not in the Hugging Face cache and HF_HUB_OFFLINE=1"),
        (["+ray_kwargs.ray_init.address=127.0.0.1:1"], r"ray: .*names the cluster 127\.0\.0\.1:1, which takes no .*num_gpus"),
        (
            ["+ray_kwargs.ray_init.address=127.0.0.1:1", "ray_kwargs.ray_init.num_cpus=null", "ray_kwargs.ray_init.num_gpus=null"],
            r"ray: nothing answers at 127\.0\.0\.1:1, named by ray_kwargs.*; start the cluster",
        ),
        (["trainer.nnodes=2"], r"ray: trainer\.nnodes=2, and no cluster is named; start one"),
        (["trainer.total_training_steps=60"], r"over 450 training problems.*train_problems=600"),
        (["evil_moe.data.train_problems=0"], r"train_problems=0"),
        (["actor_rollout_ref.model.target_modules=[q_proj,lm_head]"], r"reaches lm_head, the output head: .*exclude_modules=\[lm_head\]"),
        (["actor_rollout_ref.model.target_modules=[q_projection]"], r"target_modules=\['q_projection'\]: Target modules .*not found"),
        (["evil_moe.run_dir={file}/run"], r"run_dir: \S+ is not a folder you may write to; give another"),
    ],
)  # fmt: skip
def test_what_cannot_start_leaves_no_folder(
    overrides: list[str], tmp_path: Path, bad: list[str], reason: str
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=reason):
        train([*overrides, *(one.format(file=tmp_path / "file") for one in bad)])
    assert not (tmp_path / "run").exists() and (tmp_path / "file").read_text() == "mine"
