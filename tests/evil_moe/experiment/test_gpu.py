"""What `evil-moe doctor` says of a machine for the GPU presets, and which platform verl takes there."""

from __future__ import annotations

from pathlib import Path

import pytest
from verl.plugin.platform import platform_manager

from evil_moe.experiment.config import compose
from evil_moe.experiment.config_checks import check_config
from evil_moe.experiment.doctor import gpu
from evil_moe.experiment.doctor.finding import FAIL, OK, WARN
from evil_moe.experiment.doctor.gpu import check_attention, check_compiler, check_driver
from recipe.platform.versions import check_platform

FILES = ["evil_moe.data.train=t.jsonl", "evil_moe.data.evaluation=e.jsonl"]


@pytest.mark.parametrize("preset", ["qwen3_4b_1x96gb", "qwen3_4b_fsdp"])
def test_the_presets_need_no_flash_attention_and_stay_packed(preset: str):
    config = compose([f"preset={preset}", *FILES])
    check_config(config)
    finding = check_attention(config)  # flash-attn is not installed here
    assert finding.status == OK and finding.text == "sdpa, sequences packed"
    actor, ref = config.actor_rollout_ref.actor, config.actor_rollout_ref.ref
    compiled = (actor, actor.fsdp_config, ref, ref.fsdp_config)
    assert not any(part.use_torch_compile for part in compiled), "each packed length compiles anew"


def test_doctors_mend_is_one_that_it_accepts():
    key = "actor_rollout_ref.model.override_config.attn_implementation"
    flash = ["preset=qwen3_4b_fsdp", f"{key}=flash_attention_2", *FILES]
    finding = check_attention(compose(flash))
    assert finding.status == FAIL and "remove_padding" not in finding.mend, "it takes log-probs row by row"
    mend = finding.mend.removeprefix("set ").split(", or")[0].split()
    assert check_attention(compose([*flash, *mend])).status == OK
    row_by_row = check_attention(
        compose(["preset=qwen3_4b_fsdp", "actor_rollout_ref.model.use_fused_kernels=false", *FILES])
    )
    assert row_by_row.status == WARN and "use_fused_kernels=true" in row_by_row.mend


@pytest.mark.parametrize(
    ("cuda", "driver", "status", "says"),
    [
        ("13.0", "580.65.06", OK, "580.65.06; torch 2.11.0 is built with CUDA 13.0"),
        ("13.0", "575.57.08", FAIL, "needs driver 580 or newer; this is 575.57.08"),
        ("12.8", "575.57.08", OK, "CUDA 12.8"),
        ("13.0", None, FAIL, "needs driver 580 or newer; nvidia-smi names no driver"),
        (None, "580.65.06", FAIL, "torch.version.cuda is None"),
    ],
)
def test_the_driver_is_held_against_torchs_cuda(
    cuda: str | None,
    driver: str | None,
    status: str,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    if driver:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho {driver}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    finding = check_driver("2.11.0", cuda)
    assert finding.status == status and says in finding.text


def test_a_machine_without_compiler_or_headers_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(gpu.sysconfig, "get_path", lambda name: str(tmp_path))
    finding = check_compiler()
    assert finding.status == FAIL and finding.text == f"Triton needs gcc and {tmp_path}/Python.h"


def test_the_cpu_platform_answers_only_to_its_name(monkeypatch: pytest.MonkeyPatch):
    """A process that sees no GPU, as Ray's without one do, is verl's nvidia unless VERL_PLATFORM says cpu."""
    monkeypatch.setattr(platform_manager, "_current_platform", None)
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    assert "cpu" in platform_manager.PlatformRegistry.registered_names()
    with pytest.raises(
        RuntimeError, match=r"runs on cuda \(VERL_PLATFORM is not set\): .*set VERL_PLATFORM=cpu"
    ):
        check_platform("cpu")
    monkeypatch.setattr(platform_manager, "_current_platform", None)
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    check_platform("cpu")
    with pytest.raises(RuntimeError, match=r"verl runs on cpu \(VERL_PLATFORM=cpu\): unset VERL_PLATFORM"):
        check_platform("cuda")
