"""What the evaluation reads of its answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from peft import PeftModel

from evil_moe.ablation import reset_quarantine_
from evil_moe.adapter import lora2r_model
from evil_moe.adapter.checkpoint import save_adapter_checkpoint
from evil_moe.direction import haar_direction
from evil_moe.experiment.evaluation.answers import Sample
from evil_moe.experiment.evaluation.sides import router_scores
from evil_moe.router import Router
from tests.conftest import tiny_qwen3
from tests.reward.helpers import make_problem


def test_router_scores_are_of_the_state_that_the_run_reads(adapted: PeftModel, tmp_path: Path) -> None:
    tiny_qwen3().save_pretrained(str(tmp_path / "base"))
    router = Router(len(lora2r_model(adapted).lora2r_layers()), 4)
    with torch.no_grad():
        router.direction.copy_(haar_direction((len(router.direction), 4), seed=0).unsqueeze(1))
    save_adapter_checkpoint(adapted, router, tmp_path / "trained", write=True)
    reset_quarantine_(adapted)
    save_adapter_checkpoint(adapted, router, tmp_path / "reset", write=True)
    samples = [
        Sample("on", make_problem(), "run_tests", i, [3, 4, 5], [6 + i, 7, 8 + i], "") for i in range(4)
    ]

    def scores(state: str, adapter: str) -> list[float]:
        settings = {"feature_state": state, "router": {"normalise": True, "feature": "activation"}}
        model = {"actor_rollout_ref": {"model": {"path": str(tmp_path / "base")}}}
        return router_scores(
            OmegaConf.create({"evil_moe": settings, **model}), tmp_path / adapter, samples, 2
        )

    deployed = scores("deployed", "trained")
    assert deployed == pytest.approx(scores("rollout", "reset"), abs=1e-5)
    assert deployed != pytest.approx(scores("rollout", "trained"), abs=1e-3)
    assert scores("base", "trained") == scores("base", "reset")
