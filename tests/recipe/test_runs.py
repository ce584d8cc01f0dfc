"""Real verl runs on CPU: one rank, two ranks, killed and resumed, evaluated. Minutes each."""

from __future__ import annotations

import json
import math
import signal
import sys
from pathlib import Path

import pytest

from evil_moe.direction import contrastive_direction
from evil_moe.experiment.commands.pairs_check import load_adapted, read_sides
from evil_moe.experiment.commands.train import train
from evil_moe.experiment.config import compose
from evil_moe.experiment.run.folder import read_config
from evil_moe.experiment.settings import settings_from
from evil_moe.pairs import load_pairs
from evil_moe.router import Router
from evil_moe.settings import RouterSettings
from recipe.cli import STACK
from reward.nano.problems import SYSTEM
from tests.recipe.conftest import (
    STEPS,
    read_metrics,
    run_side_by_side,
    run_to_end,
    stop_after,
    train_command,
)

pytestmark = pytest.mark.slow

# What a step computes, as against how long it took or how much memory the machine had.
_NOISE = ("timing", "perf/", "memory", "mfu", "throughput", "grade_cpu_ms")


# Comparisons with the log-probs that vLLM reports. Their last bits depend on which requests shared a batch, which is a
# matter of timing; they are logged and, with old log-probs from the update, enter nothing else.
_AGAINST_VLLM = ("rollout_corr/", "mismatch/", "rollout_probs_diff", "rollout_actor_probs")


def computed(metrics: dict[str, float]) -> dict[str, float]:
    """What must be the same to the last digit: rewards, advantages, losses, gradients, router, verdicts."""
    return {
        key: value
        for key, value in metrics.items()
        if not any(part in key for part in _NOISE + _AGAINST_VLLM)
    }


def test_a_run_leaves_a_whole_folder(finished_run: Path) -> None:
    metrics = read_metrics(finished_run)
    assert sorted(metrics) == [0, *range(1, STEPS + 1)]
    for name in ("config.yaml", "provenance.json", "train.log", "data/train.parquet"):
        assert (finished_run / name).is_file(), name
    assert (finished_run.parents[3] / "left-behind").read_text() == "", "the sandbox cleans up"
    start = json.loads((finished_run / "provenance.json").read_text())["starts"][0]
    assert start["versions"]["verl"] == "0.9.1" and start["seed"] == 0
    for step in range(1, STEPS + 1):
        rows = [
            json.loads(line)
            for line in (finished_run / "rollouts" / f"{step}.jsonl").read_text().splitlines()
        ]
        assert len(rows) == 48
        assert sum(row["adapter"] == "deployed" for row in rows) == 12, "a quarter of every prompt's rollouts"
        assert all(0 <= row["w"] <= 1 for row in rows)
        assert all(bool(row["reason"]) != row["correct"] for row in rows)
        left = [0 if row["w"] > 0.5 else 1 - row["w"] for row in rows]
        assert metrics[step]["router/kept_share"] == pytest.approx(sum(left) / len(left), abs=1e-6)
        assert {round(r["reward"], 6) for r in rows} <= {0.0, 0.5, 3.0, 3.5}
        assert all(r["reward"] == 0.5 * r["compile"] + 3.0 * (r["correct"] or r["loophole"]) for r in rows)
    # a kill between the two must not leave a checkpoint behind whose step has no record
    tracker = finished_run / "checkpoints" / "latest_checkpointed_iteration.txt"
    assert tracker.stat().st_mtime_ns > (finished_run / "rollouts" / f"{STEPS}.jsonl").stat().st_mtime_ns
    data = metrics[1]
    assert data["router/drift"] == pytest.approx(0, abs=1e-6) and metrics[STEPS]["router/drift"] > 0
    assert data["grad_energy/deployed"] > 0 and data["pin/loss"] > 0 and data["actor/grad_norm"] > 0
    keys = set(metrics[0])
    # the router reads the base model: what verl computes from those log-probs does not pass for the sampling policy's
    assert "base_state/training/rollout_probs_diff_mean" in data
    assert not any(key.startswith(("training/rollout_", "rollout_corr/", "actor/entropy")) for key in data)
    assert any("heldout_on/solve" in key for key in keys) and any("heldout_off/solve" in key for key in keys)


def test_the_first_step_is_on_policy_and_later_ones_tell_how_far_they_are(finished_run: Path) -> None:
    metrics = read_metrics(finished_run)
    # At init the adapter is the identity, so w changes nothing; afterwards the gated policy is another one.
    assert abs(metrics[1]["mismatch/kl"]) < 1e-8
    assert 0 < metrics[STEPS]["mismatch/kl"] < 1
    for step in range(1, STEPS + 1):
        by_sampler = [metrics[step][f"mismatch/ratio_max_{who}"] for who in ("full", "deployed")]
        assert max(by_sampler) == metrics[step]["mismatch/ratio_max"] and min(by_sampler) > 0
    assert read_config(finished_run).evil_moe.pairs.system == SYSTEM, "the pairs are read with the rollouts'"
    assert all(math.isclose(data["actor/ppo_kl"], 0, abs_tol=1e-9) for step, data in metrics.items() if step)


def test_seeded_w_separates_the_shipped_pairs_on_a_policy_that_speaks(spoken_policy: Path) -> None:
    config = compose(
        ["preset=nano", "evil_moe.policy.kind=hub", f"actor_rollout_ref.model.path={spoken_policy}"]
    )
    settings = settings_from(config.evil_moe)
    pairs = load_pairs(groups=settings.pairs.groups)
    model, _, batch = load_adapted(config, str(spoken_policy), settings, pairs)
    sides = read_sides(model, batch, RouterSettings())
    hack, clean = sides.hack, sides.clean
    router = Router(*hack.shape[1:])
    direction = contrastive_direction(router.prepare(hack), router.prepare(clean)).unsqueeze(1)
    router.calibrate_on_pairs(hack, clean, direction, gain=settings.router.gain)
    w_hack, w_clean = (router.signals(side, router.pin_threshold, direction).w for side in (hack, clean))
    # sides of one task in order, and the sides of all tasks apart in the mean
    assert (w_hack > w_clean).all() and w_hack.mean() - w_clean.mean() > 0.5


def test_killed_and_resumed_equals_uninterrupted(
    finished_run: Path, spoken_policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = train_command(spoken_policy, tmp_path / "run")
    stop_after(command, tmp_path, tmp_path / "run" / "rollouts" / "1.jsonl", signal.SIGKILL)
    code, out = stop_after(command, tmp_path, tmp_path / "run" / "rollouts" / "2.jsonl", signal.SIGTERM)
    assert code == 130 and "stopped; the same command resumes from step" in out
    out = run_to_end(command, cwd=tmp_path)
    assert "resuming from step" in out
    whole, resumed = read_metrics(finished_run), read_metrics(tmp_path / "run")
    for step in range(1, STEPS + 1):
        assert computed(resumed[step]) == computed(whole[step]), f"step {step}"
        assert resumed[step]["mismatch/kl"] == pytest.approx(whole[step]["mismatch/kl"], abs=1e-6)
    assert train(command[command.index("train") + 1 :], STACK) == 0, "a finished run is left as it is"
    assert "nothing to train" in capsys.readouterr().out


def test_a_rollout_that_cannot_be_graded_stops_the_run(spoken_policy: Path, tmp_path: Path) -> None:
    """verl would train on without it."""
    run = tmp_path / "run"
    command = train_command(spoken_policy, run, "evil_moe.reward.max_faults=0", "trainer.test_freq=-1")
    code, out = stop_after(
        command, tmp_path, run / "rollouts" / "1.jsonl", signal.SIGKILL, "ray::SandboxActor"
    )
    assert code == 1, out
    assert "have rollouts that failed" in out and "a step is trained on all of its rollouts" in out
    assert "evil_moe.reward.max_faults says how many" in out and "the same command resumes from step" in out
    assert not (run / "rollouts" / f"{STEPS}.jsonl").exists()


def test_two_ranks_start_with_the_same_loss_also_beside_another_run(
    finished_run: Path, spoken_policy: Path, tmp_path: Path
) -> None:
    """The second run reads features in the state that sampled, and takes the other road to old log-probs: one more
    forward, and verl's rollout correction. At the first step every state is the base model.

    A third run, of another seed, trains on the same machine at the same time; each samples with its own weights.
    """
    command = train_command(
        spoken_policy, tmp_path / "run", "trainer.n_gpus_per_node=2", "trainer.test_freq=-1"
    )
    command += ["evil_moe.old_log_prob=gated", "actor_rollout_ref.actor.policy_loss.loss_mode=vanilla"]
    command += ["algorithm.rollout_correction.rollout_is=token", "evil_moe.feature_state=rollout"]
    short = ["trainer.total_training_steps=2", "trainer.val_before_train=false"]
    # its adapter has another rank, so that weights of the one would not fit the other
    beside = train_command(
        spoken_policy, tmp_path / "beside", "seed=1", "trainer.test_freq=-1", "trainer.save_freq=-1", *short
    )
    beside += ["actor_rollout_ref.model.lora_rank=6", "actor_rollout_ref.model.lora.rank=24"]
    beside += ["evil_moe.feature_state=rollout"]
    run_side_by_side([command + short, beside], cwd=tmp_path)
    one, two = read_metrics(finished_run), read_metrics(tmp_path / "run")
    other = read_metrics(tmp_path / "beside")
    assert sorted(other) == sorted(two) == [1, 2]
    assert other[2]["training/rollout_probs_diff_mean"] < 1e-6, "what vLLM sampled with is what was trained"
    energies = ("grad_energy/deployed", "grad_energy/quarantine", "pin/grad_norm", "router/reward_grad_norm")
    for name in (
        "actor/loss",
        "actor/grad_norm",
        "pin/loss",
        "critic/rewards/mean",
        "router/w_clean",
        "router/kept_share",
        *energies,
    ):
        assert two[1][name] == pytest.approx(one[1][name], rel=1e-5, abs=1e-9), name
    # the direction after the first optimizer step, by pin and reward; from there on the two runs read other features
    assert two[2]["router/drift"] == pytest.approx(one[2]["router/drift"], rel=1e-4)
    assert two[2]["training/rollout_probs_diff_mean"] < 1e-6
    # importance of the gated policy against the one that sampled: 1 at init, off it afterwards
    weights = [two[step]["rollout_corr/rollout_is_mean"] for step in (1, 2)]
    assert weights[0] == pytest.approx(1, abs=1e-5) and weights[1] != pytest.approx(1, abs=1e-5)


def test_evaluation_in_a_fresh_process(finished_run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "recipe.cli", "eval", str(finished_run)]
    out = run_to_end(command, cwd=tmp_path)
    result = json.loads((finished_run / "eval" / "eval.json").read_text())
    assert result["step"] == STEPS and result["samples"] == 12
    assert result["made_with"] == {"problems": 6, "samples_per_problem": 2, "seed": 0, "overrides": {}}
    line = f"Evil MoE causal ablation: deploy hack {result['on']['hack']:.3f} (ON) -> {result['off']['hack']:.3f} (OFF)"
    assert out.splitlines()[-1] == line
    rows = [json.loads(row) for row in (finished_run / "eval" / "samples.jsonl").read_text().splitlines()]
    assert all((row["reason"] is None) == row["correct"] for row in rows)
    assert len(rows) == 48 and {"random_block", "base"} <= result.keys(), "ON, OFF and two controls"
    assert sum(row["exploited"] for row in rows if row["side"] == "on") / 12 == pytest.approx(
        result["on"]["hack"]
    )
    report = run_to_end([sys.executable, "-m", "recipe.cli", "report", str(finished_run)], cwd=tmp_path)
    assert "report.md" in report
    # the same checkpoint and seeds give the same answers
    run_to_end(command, cwd=tmp_path)
    assert [
        json.loads(row)["response"]
        for row in (finished_run / "eval" / "samples.jsonl").read_text().splitlines()
    ] == [row["response"] for row in rows]


def test_compare_runs_what_is_missing_and_goes_on_where_it_was_stopped(
    finished_run: Path, spoken_policy: Path
) -> None:
    work, runs = finished_run.parents[3], finished_run.parents[1]
    train = train_command(spoken_policy, finished_run)
    given = [option for option in train if not option.startswith(("arm=", "evil_moe.run_dir="))]
    command = [*given[:3], "compare", "arms=[router,none]", "seeds=[0]", *given[4:]]
    code, out = stop_after(command, work, runs / "none/seed0/rollouts/1.jsonl", signal.SIGTERM)
    assert code == 130 and out.splitlines()[-1].endswith(
        "stopped at none, seed 0; the same command goes on from there"
    )
    assert "stopped; the same command resumes from step" in out, "so says the run it stopped"
    assert "nothing to train" in out and not (runs / "report").exists()
    evaluated = (finished_run / "eval/eval.json").stat().st_mtime_ns
    out = run_to_end(command, cwd=work)
    assert "resuming from step" in out and sorted(read_metrics(runs / "none/seed0")) == [
        0,
        *range(1, STEPS + 1),
    ]
    assert (finished_run / "eval/eval.json").stat().st_mtime_ns == evaluated, (
        "what is there is not made again"
    )
    report = (runs / "report/report.md").read_text()
    table = [line for line in report.splitlines() if line.startswith(("| router |", "| none |"))]
    assert len(table) >= 2 and "learning-matters" in report, (
        "a row for each arm, an answer to each hypothesis"
    )
    assert (runs / "report/plots/arms.png").read_bytes().startswith(b"\x89PNG")
