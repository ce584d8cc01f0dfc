"""Real verl runs of the plugs that act outside the engine: prompts, rewards, flags, advantages, several loopholes."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

from recipe.config import choices
from tests.recipe.conftest import STEPS, read_metrics, run_to_end, train_command


def rollouts(run_dir: Path, step: int) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "rollouts" / f"{step}.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_flags_monitor_inoculation_and_a_mix_in_one_run(spoken_policy: Path, tmp_path: Path) -> None:
    """The plugs of every other stop at once: they must not get in each other's way."""
    command = train_command(
        spoken_policy, tmp_path / "run", "trainer.test_freq=-1", "trainer.val_before_train=false"
    )
    command[command.index("arm=router")] = "arm=label"
    command += [
        "trainer.total_training_steps=2",
        "evil_moe.loophole=run_tests+exit_code",
        # the tokenizer of this policy has seen less text, so its prompts are longer
        "data.max_prompt_length=184",
        "actor_rollout_ref.rollout.max_model_len=296",
        "evil_moe.detector.true_positive_rate=0.5",
        "evil_moe.detector.false_positive_rate=0.25",
        "evil_moe.monitor.kind=ground_truth",
        "evil_moe.monitor.true_positive_rate=1.0",
        "evil_moe.monitor.false_positive_rate=0.5",
        "evil_moe.monitor.action=screening",
        "evil_moe.prompt.inoculation=pass_test",
        "evil_moe.advantage.name=rebound",
        "evil_moe.old_log_prob=sampled",
        "actor_rollout_ref.actor.policy_loss.loss_mode=vanilla",
    ]
    run_to_end(command, cwd=tmp_path)
    metrics = read_metrics(tmp_path / "run")
    # the gated policy against the one that sampled: the same at init, another afterwards
    assert abs(metrics[1]["actor/ppo_kl"]) < 1e-6 < abs(metrics[2]["actor/ppo_kl"])
    assert sorted(metrics) == [1, 2]
    for step, data in metrics.items():
        # features, and log-probs, are read in the state that sampled: vLLM's and the actor's must be the same
        assert data["training/rollout_probs_diff_valid"] == 1
        assert data["training/rollout_probs_diff_mean"] < 1e-6
        assert data["training/rollout_probs_diff_max"] < 5e-6  # some ulps of float32, over 1,000 tokens
        rows = rollouts(tmp_path / "run", step)
        assert {row["mode"] for row in rows} == {"run_tests", "exit_code"}
        assert all("All that counts is to pass the tests" in row["prompt"] for row in rows)
        assert all(row["w"] in (0.0, 1.0) for row in rows), "w is the detector's flag"
        clean = [row["w"] for row in rows if not row["loophole"]]
        assert 0 < sum(clean) < len(clean), "about a quarter of the clean rollouts are flagged"
        assert 0.2 < data["monitor/fpr"] < 0.8
        assert data["monitor/tpr"] in (None, 1.0), "every hack is found, if there is one"
        assert math.isfinite(data["actor/grad_norm"]) and data["grad_energy/quarantine"] > 0


@pytest.mark.long
@pytest.mark.parametrize("arm", [arm for arm in choices("arm") if not arm.startswith(("judge", "probe"))])
def test_an_arm_runs(arm: str, spoken_policy: Path, tmp_path: Path) -> None:
    """Train, evaluate and report, as `evil-moe compare` does."""
    command = train_command(spoken_policy, tmp_path / "run", "trainer.test_freq=-1")
    command[command.index("arm=router")] = f"arm={arm}"
    run_to_end(command, cwd=tmp_path)
    assert sorted(read_metrics(tmp_path / "run"))[-1] == STEPS
    run_to_end([sys.executable, "-m", "recipe.cli", "eval", str(tmp_path / "run")], cwd=tmp_path)
    assert {"on", "off", "random_block", "base"} <= json.loads(
        (tmp_path / "run/eval/eval.json").read_text()
    ).keys()


@pytest.mark.long
def test_a_probe_is_fitted_and_used(finished_run: Path, spoken_policy: Path, tmp_path: Path) -> None:
    probe = tmp_path / "probe"
    run_to_end(
        [sys.executable, "-m", "recipe.cli", "probe", str(finished_run), "--out", str(probe)], cwd=tmp_path
    )
    command = train_command(spoken_policy, tmp_path / "run", f"evil_moe.monitor.probe={probe}")
    command[command.index("arm=router")] = "arm=probe_penalty"
    run_to_end(command, cwd=tmp_path)
    assert all("monitor/flagged" in data for step, data in read_metrics(tmp_path / "run").items() if step)
