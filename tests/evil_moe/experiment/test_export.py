"""Exports from a checkpoint on disk give the logits of the adapter they came from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from evil_moe.adapter import Lora2rConfig, lora2r_model
from evil_moe.adapter.checkpoint import save_adapter_checkpoint
from evil_moe.experiment.commands.evaluate import evaluate_run
from evil_moe.experiment.commands.export import export_checkpoint, export_run
from evil_moe.experiment.evaluation.stored import adapter_folder, load_run_config
from evil_moe.export import SERVED_RANKS, served_rank
from evil_moe.gates import make_gate
from evil_moe.router import Router
from recipe.cli import STACK, main
from tests.conftest import perturb, tiny_qwen3

IDS = torch.arange(1, 21).reshape(2, 10)


@pytest.fixture
def checkpoint(adapted: PeftModel, tmp_path: Path) -> Path:
    """A folder as `save_pretrained` writes it."""
    adapted.save_pretrained(str(tmp_path / "adapter"))
    return tmp_path / "adapter"


def _logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return PeftModel.from_pretrained(tiny_qwen3(), str(folder)).eval()(IDS).logits


def test_full_is_the_whole_adapter(adapted: PeftModel, checkpoint: Path, tmp_path: Path):
    with torch.no_grad():
        expected = adapted(IDS).logits
    torch.testing.assert_close(
        _logits(export_checkpoint(checkpoint, "full", tmp_path / "x")), expected, atol=1e-5, rtol=1e-5
    )


def test_deployed_is_the_adapter_without_quarantine(adapted: PeftModel, checkpoint: Path, tmp_path: Path):
    with torch.no_grad(), lora2r_model(adapted).quarantine_off():
        expected = adapted(IDS).logits
    actual = _logits(export_checkpoint(checkpoint, "deployed", tmp_path / "x"))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        assert not torch.allclose(actual, adapted(IDS).logits, atol=1e-3)


def test_several_quarantine_blocks_and_a_scale(tmp_path: Path):
    config = Lora2rConfig(r=4, num_quarantine=2, quarantine_rank=2, lora_alpha=8.0, task_type="CAUSAL_LM")
    model = get_peft_model(tiny_qwen3(), config).eval()
    perturb(model)
    model.save_pretrained(str(tmp_path / "adapter"))
    with torch.no_grad():
        expected = model(IDS).logits
    out = export_checkpoint(tmp_path / "adapter", "full", tmp_path / "x")
    assert json.loads((out / "adapter_config.json").read_text())["r"] == 2 * (4 + 2 * 2)
    torch.testing.assert_close(_logits(out), expected, atol=1e-5, rtol=1e-5)


def test_a_run_folder_as_training_writes_it(adapted: PeftModel, tmp_path: Path):
    """The run's tuner carries router and gate; their tensors are neither the adapter's nor the export's business."""
    adapted.base_model.lora_2r_router = Router(len(lora2r_model(adapted).lora2r_layers()), 4)
    adapted.base_model.lora_2r_gate = make_gate("route_act")
    for step in (10, 20):
        folder = tmp_path / f"checkpoints/global_step_{step}/actor/adapter"
        save_adapter_checkpoint(adapted, adapted.base_model.lora_2r_router, folder, write=True)
        saved = load_file(folder / "adapter_model.safetensors")
        assert not [name for name in saved if "lora_2r_router" in name or "lora_2r_gate" in name]
    (tmp_path / "checkpoints/latest_checkpointed_iteration.txt").write_text("20")
    out, step = export_run(tmp_path, "full", tmp_path / "x")
    assert step == 20
    assert not [name for name in load_file(out / "adapter_model.safetensors") if "router" in name]
    with torch.no_grad():
        torch.testing.assert_close(_logits(out), adapted(IDS).logits, atol=1e-5, rtol=1e-5)
    (tmp_path / "checkpoints/global_step_5").mkdir()  # verl has deleted what was in it
    with pytest.raises(FileNotFoundError, match=r"step 30.*\[10, 20\]; name one with --step"):
        export_run(tmp_path, "full", tmp_path / "y", step=30)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "router.safetensors", "adapter_config.json"])
def test_a_file_that_was_cut_short_is_named(adapted: PeftModel, tmp_path: Path, name: str):
    folder = tmp_path / "checkpoints/global_step_10/actor/adapter"
    save_adapter_checkpoint(
        adapted, Router(len(lora2r_model(adapted).lora2r_layers()), 4), folder, write=True
    )
    assert adapter_folder(tmp_path, 10) == (folder, 10)
    whole = (folder / name).read_bytes()
    for content in (whole[: len(whole) // 2], b""):
        (folder / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{folder}/{name} cannot be read .*; name another checkpoint"):
            export_run(tmp_path, "full", tmp_path / "x", step=10)
    (tmp_path / "checkpoints/latest_checkpointed_iteration.txt").touch()
    with pytest.raises(ValueError, match=r"iteration\.txt cannot be read .*\(there: 10\)"):
        export_run(tmp_path, "full", tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evil_moe.evl.samples=2", r"no key 'evil_moe\.evl\.samples'; there is no 'evil_moe\.evl' either"),
        ("evil_moe.eval.sample=2", r"no key 'evil_moe\.eval\.sample'; there is samples, markers"),
        ("evil_moe.eval.markers.x=2", r"no key .* there is no 'evil_moe\.eval\.markers' either"),
        ("evil_moe.eval.samples=[2", r"'\[2' is no value for it"),
        ("+evil_moe.eval.samples=2", r"plain key=value .* no \+key"),
        ("++evil_moe.eval.samples=2", r"plain key=value"),
        ("~evil_moe.eval.samples=2", r"plain key=value .* no ~key"),
    ],
)
def test_overrides_of_an_evaluation(tmp_path: Path, override: str, message: str):
    (tmp_path / "config.yaml").write_text("evil_moe: {eval: {samples: 1, markers: train}}")
    assert load_run_config(tmp_path, ["evil_moe.eval.samples=4"]).evil_moe.eval.samples == 4
    with pytest.raises(ValueError, match=message):
        load_run_config(tmp_path, [override])


def test_errors_name_what_is_wrong(checkpoint: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="is no adapter checkpoint"):
        export_checkpoint(tmp_path, "full", tmp_path / "x")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(ValueError, match="is there already"):
        export_checkpoint(checkpoint, "full", tmp_path / "taken")


def test_a_checkpoint_with_a_missing_tensor_is_refused(checkpoint: Path, tmp_path: Path):
    path = checkpoint / "adapter_model.safetensors"
    state = load_file(path)
    del state[next(name for name in state if name.endswith("lora_2r_A0"))]
    save_file(state, path)
    with pytest.raises(ValueError, match=r"lacks \['lora_2r_A0'\]"):
        export_checkpoint(checkpoint, "full", tmp_path / "x")


def test_another_method_is_refused(tmp_path: Path):
    get_peft_model(tiny_qwen3(), LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(
        str(tmp_path / "adapter")
    )
    with pytest.raises(ValueError, match="only lora2r"):
        export_checkpoint(tmp_path / "adapter", "full", tmp_path / "x")


def test_an_evaluation_misses_the_policy_at_once(tmp_path: Path):
    (tmp_path / "config.yaml").write_text("actor_rollout_ref: {model: {path: /nowhere/cache/nano-policy}}")
    with pytest.raises(FileNotFoundError, match=r"/nowhere/cache/nano-policy is gone, .* data prepare"):
        evaluate_run(tmp_path, STACK)
    assert not (tmp_path / "eval").exists()


def test_export_says_what_a_server_needs(
    adapted: PeftModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run/checkpoints/global_step_3/actor/adapter"
    save_adapter_checkpoint(adapted, Router(14, 4), folder, write=True)
    (tmp_path / "run/checkpoints/latest_checkpointed_iteration.txt").write_text("3")
    out = tmp_path / "x"
    assert main(["export", str(tmp_path / "run"), "--kind", "full", "--out", str(out)]) == 0
    assert (
        f"rank 16, for any engine; vLLM serves it with --enable-lora --max-lora-rank 16 --lora-modules evil_moe={out}"
        in (capsys.readouterr().out)
    )


def test_the_rank_that_a_server_needs_is_verls_and_vllms() -> None:
    """One place rounds up, for training (verl's own), evaluation and what export says."""
    from typing import get_args

    from verl.workers.rollout.vllm_rollout.utils import get_vllm_max_lora_rank
    from vllm.config.lora import MaxLoRARanks

    assert get_args(MaxLoRARanks) == SERVED_RANKS
    for rank in (1, 2, 8, 9, 24, 48, 64, 96, 192, 257, 400, 512):
        assert served_rank(rank) == get_vllm_max_lora_rank(rank)
    with pytest.raises(ValueError, match=r"rank 513 is more than vLLM serves \(512\): lower"):
        served_rank(513)
