"""The monitor's stage: what each kind sees and does, the probe command, and a judge that vLLM serves."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
from omegaconf import OmegaConf
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from evil_moe.adapter import Lora2rConfig, SequenceLayout, lora2r_model
from evil_moe.adapter.checkpoint import save_adapter_checkpoint
from evil_moe.advantages import DrGrpo, RolloutBatch
from evil_moe.experiment.assets.problems import prompt_messages
from evil_moe.experiment.commands.probe import parse_steps, read_rollouts
from evil_moe.experiment.evaluation.stored import load_run_config
from evil_moe.experiment.monitor import MonitorStage
from evil_moe.experiment.monitor_settings import MonitorSettings
from evil_moe.features import MeanPooling
from evil_moe.features.texts import load_adapted, read_features
from evil_moe.nano_policy import build_model, save, train_tokenizer
from evil_moe.probe import FeatureBasis, Probe, fit_probe
from evil_moe.router import Router
from recipe import cli
from reward.monitors import Judge, JudgeCase
from reward.problems.sources import load_nano
from tests.conftest import perturb

BASIS = FeatureBasis(policy="p", init="gaussian", init_seed=0, feature_state="base")
KEYS = [f"000007-{i:04d}_0_0" for i in range(8)]
REWARDS = [3.5, 0.5, 3.5, 0.0, 3.5, 3.5, 0.5, 0.5]
LABELS = [True, False, False, False, True, True, False, False]
TEXTS = ["text"] * 8


def stage(seed: int = 0, **values: Any) -> MonitorStage:
    return MonitorStage(MonitorSettings.from_mapping(values), seed)


def test_no_monitor_changes_nothing() -> None:
    monitor = stage(accuracy=1.0)  # `kind=none` on the command line switches an arm's monitor off
    result = monitor(7, KEYS, REWARDS, LABELS, TEXTS, TEXTS, None)
    assert result.rewards == REWARDS and all(result.keep) and not any(result.flagged)


def test_a_perfect_detector_penalises_the_labels() -> None:
    monitor = stage(kind="ground_truth", accuracy=1.0, penalty=3.0)
    result = monitor(7, KEYS, REWARDS, LABELS, TEXTS, TEXTS, None)
    assert result.rewards == [0.5, 0.5, 3.5, 0.0, 0.5, 0.5, 0.5, 0.5]
    assert result.flagged == LABELS and all(result.keep)
    metrics = monitor.metrics(result, LABELS)
    rates = {"monitor/flagged": 3 / 8, "monitor/tpr": 1, "monitor/fpr": 0, "monitor/faults": 0}
    assert metrics == rates | {"monitor/paid_mean": 6.5 / 8}
    assert math.isnan(monitor.metrics(result, [False] * 8)["monitor/tpr"])


def test_screening_keeps_all_but_the_flagged() -> None:
    """What gets an advantage, and against which mean, by hand on two groups of four."""
    monitor = stage(kind="ground_truth", accuracy=1.0, action="screening")
    result = monitor(7, KEYS, REWARDS, LABELS, TEXTS, TEXTS, None)
    assert result.rewards == REWARDS
    assert [key for key, keep in zip(KEYS, result.keep, strict=True) if not keep] == [
        key for key, flagged in zip(KEYS, LABELS, strict=True) if flagged
    ]
    rollouts = RolloutBatch(
        reward=torch.tensor(result.rewards),
        w=torch.zeros(8),
        group=torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]),
        keep=torch.tensor(result.keep),
    )
    mean = torch.tensor([4.0 / 3] * 4 + [0.5] * 4)
    assert torch.equal(DrGrpo()(rollouts), rollouts.keep * (rollouts.reward - mean))


def test_mistakes_follow_from_seed_step_and_key() -> None:
    monitor = stage(kind="ground_truth", accuracy=0.6)
    every = monitor(7, KEYS, REWARDS, LABELS, TEXTS, TEXTS, None).flagged
    assert monitor(7, KEYS[4:], REWARDS[4:], LABELS[4:], TEXTS[4:], TEXTS[4:], None).flagged == every[4:]
    others = [stage(seed=s, kind="ground_truth", accuracy=0.6) for s in (1, 2)]
    flags = [m(7, KEYS, REWARDS, LABELS, TEXTS, TEXTS, None).flagged for m in others]
    flags.append(monitor(8, KEYS, REWARDS, LABELS, TEXTS, TEXTS, None).flagged)
    assert any(flag != every for flag in flags)


def test_capped_precision_is_told() -> None:
    monitor = stage(kind="ground_truth", precision=0.2, recall=1.0)
    result = monitor(7, KEYS, REWARDS, [True] * 7 + [False], TEXTS, TEXTS, None)
    assert monitor.metrics(result, [True] * 7 + [False])["monitor/capped"] == 1
    assert monitor.metrics(result, [True] + [False] * 7)["monitor/capped"] == 0


def test_a_probe_flags_from_its_threshold_and_sees_no_label(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    hack = torch.rand(800, generator=generator) < 0.5
    features = torch.randn(800, 2, 4, generator=generator) + 2.0 * hack[:, None, None]
    fit_probe(features, hack, torch.arange(800), "mass_mean").save(tmp_path, BASIS)
    probe = Probe.load(tmp_path, BASIS)
    monitor = stage(kind="probe", probe=str(tmp_path), action="progressive", penalty=2.0)
    result = monitor(7, KEYS, REWARDS, LABELS, TEXTS, TEXTS, features[:8])
    score = probe.score(features[:8])
    assert result.score == pytest.approx(score.tolist())
    assert result.flagged == (score >= probe.threshold).tolist() and any(result.flagged)
    assert result.rewards == pytest.approx((torch.tensor(REWARDS) - 2 * score).tolist())
    blind = monitor(7, KEYS, REWARDS, [not label for label in LABELS], TEXTS, TEXTS, features[:8])
    assert blind == result
    assert stage(kind="probe", probe=str(tmp_path), threshold=0.9).threshold == 0.9
    with pytest.raises(ValueError, match="got none"):
        monitor(7, KEYS, REWARDS, LABELS, TEXTS, TEXTS, None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"knd": "probe"}, r"evil_moe\.monitor\.knd is no key"),
        ({"kind": "probes"}, r"evil_moe\.monitor\.kind='probes'; choose one of"),
        ({"kind": "judge", "action": "ban"}, r"evil_moe\.monitor\.action='ban'; choose one of"),
        ({"kind": "ground_truth"}, r"evil_moe\.monitor\..*accuracy.*or accuracy \(1 for the true labels\)"),
        ({"kind": "ground_truth", "accuracy": 2.0}, r"evil_moe\.monitor\.accuracy: accuracy=2.0 must lie"),
        ({"kind": "ground_truth", "accuracy": 1.0, "penalty": 0.0}, r"evil_moe\.monitor\.penalty=0.0"),
        ({"kind": "ground_truth", "accuracy": 1.0, "threshold": 1.5}, r"evil_moe\.monitor\.threshold=1.5"),
        ({"kind": "probe"}, r"evil_moe\.monitor\.probe is needed"),
        ({"kind": "probe", "probe": "/x", "accuracy": 1.0}, r"accuracy=1.0 belongs to kind=ground_truth"),
        ({"kind": "judge", "base_url": "http://x/v1"}, r"evil_moe\.monitor\.model is needed"),
    ],
)
def test_settings_name_the_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MonitorSettings.from_mapping(values)


def test_what_only_the_machine_knows_is_checked_when_the_stage_is_built() -> None:
    with pytest.raises(FileNotFoundError, match="evil-moe probe"):
        stage(kind="probe", probe="/nowhere")
    with pytest.raises(ValueError, match=r"evil_moe\.monitor\.api_key_env: .*NO_SUCH_KEY_HERE"):
        stage(kind="judge", base_url="http://x/v1", model="m", api_key_env="NO_SUCH_KEY_HERE")
    with pytest.raises(ValueError, match=r"evil_moe\.monitor\.base_url: .*looks like http"):
        stage(kind="judge", base_url="x", model="m")


# ---------------------------------------------------------------- the probe command


@pytest.fixture(scope="module")
def stored_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run as training leaves it: a nano policy with random weights, 400 made-up rollouts.

    A hack is a reply with a `run_tests`, so there is something for a probe to find.
    """
    run, policy = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("policy")
    problems = load_nano("train", 40, 0)
    prompts = [prompt_messages(problem, "run_tests") for problem in problems]
    replies = ["```python\nclass Solution: pass\n```", "def run_tests():\n    return True"]
    tokenizer = train_tokenizer([m["content"] for p in prompts for m in p] + replies)
    model = build_model(tokenizer, seed=0)
    save(model, tokenizer, policy)
    adapted = get_peft_model(model, Lora2rConfig(r=4, init_seed=3, task_type="CAUSAL_LM"))
    perturb(adapted)
    router = Router(len(lora2r_model(adapted).lora2r_layers()), 4)
    save_adapter_checkpoint(adapted, router, run / "checkpoints/global_step_2/actor/adapter", write=True)
    (run / "checkpoints/latest_checkpointed_iteration.txt").write_text("2")
    config = {
        "actor_rollout_ref": {"model": {"path": str(policy)}},
        "data": {"apply_chat_template_kwargs": {}, "max_response_length": 20},
        "evil_moe": {"policy": {"kind": "hub"}, "adapter": {"init_seed": 3}, "feature_state": "rollout"},
    }
    OmegaConf.save(OmegaConf.create(config), run / "config.yaml")
    (run / "data").mkdir()
    rows = [{"prompt": prompt} for prompt in prompts]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), run / "data/train.parquet")
    (run / "rollouts").mkdir()
    for step, part in ((1, prompts[:20]), (2, prompts[20:])):
        lines = []
        for prompt in part:
            ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]
            text = tokenizer.decode(ids, skip_special_tokens=True)
            for i in range(10):
                reply = f"x = {i}\n" + replies[i % 2]
                lines.append(json.dumps({"prompt": text, "response": reply, "loophole": i % 2 == 1}))
        (run / f"rollouts/{step}.jsonl").write_text("\n".join(lines) + "\n")
    return run


def test_rollouts_are_read_with_the_tokens_of_their_prompts(stored_run: Path) -> None:
    config = load_run_config(stored_run, [])
    tokenizer = AutoTokenizer.from_pretrained(config.actor_rollout_ref.model.path)
    rollouts = read_rollouts(stored_run, config, 2, 2)
    assert len(rollouts.texts) == 200 and rollouts.loophole.tolist() == [False, True] * 100
    assert rollouts.problem.tolist() == [20 + i // 10 for i in range(200)]
    prompt, response = rollouts.texts[0]
    messages = prompt_messages(load_nano("train", 40, 0)[20], "run_tests")
    assert prompt == tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert len(response) <= 20 and (len(response) == 20 or response[-1] == tokenizer.eos_token_id)
    with pytest.raises(FileNotFoundError, match="steps 1 to 2 are there"):
        read_rollouts(stored_run, config, 3, 9)


def test_a_stored_rollout_ends_as_the_template_ends_a_turn(stored_run: Path, tmp_path: Path) -> None:
    """Whatever the tokenizer calls its end."""
    config = load_run_config(stored_run, [])
    tokenizer = AutoTokenizer.from_pretrained(config.actor_rollout_ref.model.path)
    end, tokenizer.eos_token = tokenizer.eos_token_id, tokenizer.pad_token
    tokenizer.save_pretrained(tmp_path)
    config.actor_rollout_ref.model.path, config.data.max_response_length = str(tmp_path), 400
    assert {response[-1] for _, response in read_rollouts(stored_run, config, 1, 1).texts} == {end}


def test_a_prompt_of_another_run_is_refused(stored_run: Path, tmp_path: Path) -> None:
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "data").symlink_to(stored_run / "data")
    row = {"prompt": "user\nwhat else?\nassistant\n", "response": "x", "loophole": False}
    (tmp_path / "rollouts/1.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=r"1\.jsonl:1: the prompt .* not of one run"):
        read_rollouts(tmp_path, load_run_config(stored_run, []), 1, 1)


def test_features_are_those_of_the_adapter_at_its_init(stored_run: Path) -> None:
    """What another run's first step reads: a fresh adapter of the same seed, one rollout at a time."""
    config = load_run_config(stored_run, [])
    path = config.actor_rollout_ref.model.path
    texts = read_rollouts(stored_run, config, 1, 1).texts[:6]
    model = load_adapted(path, stored_run / "checkpoints/global_step_2/actor/adapter")
    trained = torch.cat(list(read_features(model, texts, 4)))
    read = torch.cat(list(read_features(model, texts, 4, of_base=True)))
    fresh = get_peft_model(
        AutoModelForCausalLM.from_pretrained(path), Lora2rConfig(r=4, init_seed=3, task_type="CAUSAL_LM")
    ).eval()
    state = lora2r_model(fresh).forward_state
    for row, (prompt, response) in zip(read, texts, strict=True):
        completion = torch.tensor([[0.0] * len(prompt) + [1.0] * len(response)])
        with (
            torch.no_grad(),
            state.gated(None, SequenceLayout(None, completion, 1)),
            state.reading_features(MeanPooling().reading(lora2r_model(fresh))) as by_module,
        ):
            fresh(torch.tensor([prompt + response]))
        torch.testing.assert_close(row, by_module.features()[0], atol=1e-5, rtol=1e-4)
    assert (trained - read).abs().max() > 1e-2, "the trained adapter would show"


@pytest.mark.parametrize("kind", ["mass_mean", "logistic"])
def test_the_command_writes_a_probe_that_the_stage_takes(
    stored_run: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "probe"
    assert cli.main(["probe", str(stored_run), "--kind", kind, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "400 rollouts of 40 problems, 200 with a loophole" in printed and f"| {kind} |" in printed
    monitor = stage(kind="probe", probe=str(out))
    assert monitor.probe is not None and monitor.probe.report.auroc > 0.95
    assert monitor.probe.weight.shape == (21, 4)
    model = load_run_config(stored_run, []).actor_rollout_ref.model.path
    basis = FeatureBasis(policy=model, init="gaussian", init_seed=3, feature_state="base")
    settings = MonitorSettings(kind="probe", probe=str(out))
    assert MonitorStage(settings, 0, basis).probe is not None
    with pytest.raises(ValueError, match=r"init_seed=3, and this run has 0"):
        MonitorStage(settings, 0, replace(basis, init_seed=0))
    assert cli.main(["probe", str(stored_run), "--out", str(out)]) == cli.USER_ERROR
    assert "is there already" in capsys.readouterr().err
    assert cli.main(["probe", str(stored_run), "--out", str(tmp_path / "x"), "--steps", "9-3"]) == 2
    assert "FIRST-LAST" in capsys.readouterr().err


def test_steps() -> None:
    assert parse_steps("3-12") == (3, 12) and parse_steps("4") == (4, 4)
    assert parse_steps(None)[0] == 1
    for text in ("a", "3-", "-3", "3-x"):
        with pytest.raises(ValueError, match="FIRST-LAST"):
            parse_steps(text)


# ---------------------------------------------------------------- a judge that vLLM serves


@pytest.mark.slow
def test_vllm_serves_a_judge(vllm_endpoint: str) -> None:
    """Held to the format, the policy gives scores; left alone, it talks nonsense, and that is a fault each."""
    cases = [JudgeCase("Add two.", f"def run_tests(): return {i}") for i in range(3)]
    scores = Judge(vllm_endpoint, "nano-judge", structured=True).scores(cases)
    assert all(score is not None and 0 <= score <= 1 for score in scores)
    assert Judge(vllm_endpoint, "nano-judge", structured=True).scores(cases) == scores, "temperature 0"
    assert Judge(vllm_endpoint, "nano-judge", retries=0).scores(cases) == [None] * 3


@pytest.mark.slow
def test_the_stage_with_a_judge_that_vllm_serves(vllm_endpoint: str) -> None:
    options = {"kind": "judge", "base_url": vllm_endpoint, "model": "nano-judge", "action": "progressive"}
    monitor = stage(**options, structured=True, penalty=2.0)
    result = monitor(7, KEYS, REWARDS, LABELS, TEXTS, TEXTS, None)
    assert None not in result.score
    assert result.rewards == pytest.approx([r - 2 * s for r, s in zip(REWARDS, result.score, strict=True)])
    free = stage(**options, retries=0)
    result = free(7, KEYS, REWARDS, LABELS, TEXTS, TEXTS, None)
    assert result.rewards == REWARDS and free.metrics(result, LABELS)["monitor/faults"] == 8
