"""The engine on one and on two FSDP2 ranks, several micro-batches, against plain autograd (gloo, no Ray)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("ranks", "form", "pooling"),
    [
        (1, "plain", "mean"),
        (2, "plain", "window"),
        (2, "fused", "mean"),
        (1, "gpu", "mean"),
        (2, "gpu", "window"),
    ],
)
def test_gradients_of_reward_pin_and_contrast_match_plain_autograd(
    ranks: int, form: str, pooling: str, tiny_policy: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command += ["-m", "tests.recipe.engine_on_ranks", str(tiny_policy), str(out), form, pooling]
    environment = {**os.environ, "VERL_PLATFORM": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    report = json.loads(out.read_text())
    assert report["loss"][0] == pytest.approx(report["loss"][1], rel=1e-5)
    for name in ("scores", "threshold", "adapter_grad", "total_grad"):
        assert report[name] < 1e-4, report
    assert report["micro_batches"] > 1
    # Float32's rounding, more where log-probs are rounded to the head's chunks; what the gate lets through is another gradient.
    assert report["unrouted"] < (1e-6 if form == "plain" else 3e-6) and report["withheld"] > 0.1, report
    if (form, ranks) == ("plain", 2):
        check_steps(report["steps"])
    # The comparison means something only if all parts weigh in.
    assert report["pin_share"] > 0.01 < report["contrast_share"] and report["reward_share"] > 1e-4, report
    assert report["metrics"]["pin/loss"][0] > 0 < report["metrics"]["contrast/loss"][0]
    if "bfloat16" in report:
        check_bfloat16(report["bfloat16"])


def check_steps(report: dict[str, Any]) -> None:
    """Split moment's first step is that of the formula, clipped; a step that no rollout is let through leaves the deployed block
    to the bit, under either plug; one that is not finite leaves all."""
    assert report["clipped"] < 0.5, "clipping is at work"
    first = report["first_step"]
    assert max(first[name] for name in ("first", "second", "block")) < 2e-6, report
    assert first["length"] < 0.9, "shorter than AdamW's first step"
    for plug in ("split_moment", "kept_share"):
        told = report[plug]
        assert told["held"] and told["momentum"] > 0.01 < told["quarantine"], (plug, told)
        assert max(told["first"], told["second"]) < 1e-6, (plug, told)
    assert report["skipped"]


def check_bfloat16(report: dict[str, Any]) -> None:
    """A bfloat16 base: the policy that is trained is the one that samples, at the end of 1,024 tokens as at their start, and
    what is frozen and sent is in the base's precision."""
    assert report["rotary"] == ["torch.float32"]
    # 0.011 throughout, bfloat16's rounding; with frequencies of bfloat16 0.014 in the first quarter and 0.025 in the last.
    first, *_, last = report["difference"]
    assert max(report["difference"]) < 0.015 and last < 1.5 * first, report["difference"]
    assert report["sent"] == report["init"] == ["torch.bfloat16"] and report["trained"] == "torch.float32"
