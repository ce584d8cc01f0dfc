"""The checks of this machine, which `evil-moe doctor` shows and a run makes at its start."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from evil_moe.experiment.config import compose
from evil_moe.experiment.doctor.checks import check_data, check_machine, check_model, check_run_dir
from evil_moe.experiment.doctor.cluster import check_ray
from evil_moe.experiment.doctor.finding import FAIL, OK, WARN
from evil_moe.experiment.doctor.memory import check_adapter, check_memory
from evil_moe.experiment.doctor.sandbox import check_sandbox
from evil_moe.experiment.settings import settings_from
from recipe.platform.versions import find_vllm


def test_the_sandbox_probe_and_what_it_says_of_a_broken_one(monkeypatch: pytest.MonkeyPatch):
    settings = settings_from(compose([]).evil_moe)
    assert check_sandbox(settings).status == OK
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    broken = check_sandbox(settings)
    assert broken.status == FAIL and broken.mend


def test_checks_name_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = compose(
        [
            "preset=qwen3_4b_fsdp",
            "+ray_kwargs.ray_init.address=127.0.0.1:1",
            f"evil_moe.run_dir={tmp_path}/file/run",
            f"evil_moe.data.train={tmp_path}/missing.jsonl",
            "evil_moe.data.evaluation=null",
            "actor_rollout_ref.model.path=/nowhere/model",
        ]
    )
    (tmp_path / "file").touch()
    assert check_ray(config).status == FAIL
    assert check_run_dir(config).status == FAIL
    assert [finding.status for finding in check_data(config)] == [FAIL, FAIL]
    assert [finding.status for finding in check_model(config)] == [FAIL]
    assert check_memory(config).detail, "the preset's numbers, where there is no model"
    config.actor_rollout_ref.model.path = str(tmp_path)
    assert [finding.text for finding in check_model(config)] == [
        f"{tmp_path} lacks config.json and *.safetensors"
    ]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert find_vllm(config).status == FAIL


@pytest.mark.parametrize(("free_gb", "status"), [(3.0, FAIL), (5.0, WARN), (9.0, OK)])
def test_too_little_memory_is_told_from_little(free_gb: float, status: str, monkeypatch: pytest.MonkeyPatch):
    memory = SimpleNamespace(available=free_gb * 1e9)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    assert next(check_machine(compose([]))).status == status


def test_ray_is_looked_for_where_ray_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each of these makes `ray.init` join a cluster, and nano's num_cpus and num_gpus fail there."""
    config = compose(["preset=nano"])
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert check_ray(config).status == OK
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text("127.0.0.1:2\n")
    finding = check_ray(config)
    assert finding.status == FAIL and "ray_current_cluster names the cluster 127.0.0.1:2" in finding.text
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    finding = check_ray(config)
    assert finding.status == FAIL and "RAY_ADDRESS names the cluster 127.0.0.1:1" in finding.text
    assert "+ray_kwargs.ray_init.address=local" in finding.mend and "num_gpus=null" in finding.mend
    assert check_ray(compose(["+ray_kwargs.ray_init.address=local"])).status == OK
    without = compose(["ray_kwargs.ray_init.num_cpus=null", "ray_kwargs.ray_init.num_gpus=null"])
    assert "nothing answers" in check_ray(without).text


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        ("all-linear", ""),
        ("[q_proj,lm_head]", "reaches lm_head, the output head"),
        ("'.*(q_proj|lm_head)'", "reaches lm_head, the output head"),
        ("[embed_tokens]", "lora2r wraps torch.nn.Linear only"),
        ("[nope]", "not found in the base model"),
    ],
)
def test_targets_that_training_refuses_are_doctors_too(targets: str, says: str, tiny_policy: Path):
    policy = ["evil_moe.policy.kind=hub", f"actor_rollout_ref.model.path={tiny_policy}"]
    config = compose([*policy, f"actor_rollout_ref.model.target_modules={targets}"])
    finding = check_adapter(config)
    assert finding.status == (FAIL if says else OK) and says in finding.text
    if "lm_head" in targets:
        config.actor_rollout_ref.model.exclude_modules = ["lm_head"]
        assert check_adapter(config).status == OK, "the mend that it names"
