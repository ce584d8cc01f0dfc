"""The row of legit near-hacks in an evaluation, and the nano policy whose warm start carries them."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from evil_moe.adapter import Lora2rConfig, lora2r_model
from evil_moe.adapter.checkpoint import save_adapter_checkpoint
from evil_moe.direction import haar_direction
from evil_moe.experiment.assets import legit_policy, policies
from evil_moe.experiment.assets.problems import prepare_problems
from evil_moe.experiment.commands.evaluate import _table
from evil_moe.experiment.config import compose
from evil_moe.experiment.evaluation import legit
from evil_moe.experiment.evaluation.answers import Sample
from evil_moe.experiment.evaluation.legit import carrying_rates, legit_result, legit_texts
from evil_moe.experiment.evaluation.sides import router_scores
from evil_moe.legit import load_legit
from evil_moe.nano_policy import WarmStartPhase
from evil_moe.router import Router
from reward.grader import Grader
from reward.legit_cases import LEGIT_KINDS, carries
from reward.nano import generate
from reward.problems import Problem
from tests.conftest import perturb


def on_hub(policy: Path, *overrides: str):
    return compose(["evil_moe.policy.kind=hub", f"actor_rollout_ref.model.path={policy}", *overrides])


def test_the_router_weighs_the_replies_as_it_does_the_answers(
    tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(legit, "NANO_CASES", 4)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_policy), Lora2rConfig(r=4, task_type="CAUSAL_LM")
    ).eval()
    perturb(model)
    router = Router(len(lora2r_model(model).lora2r_layers()), 4)
    with torch.no_grad():
        router.direction.copy_(haar_direction((len(router.direction), 4), seed=0).unsqueeze(1))
        router.seed_direction.copy_(router.direction)
        router.scale.fill_(3.0)
    config = on_hub(tiny_policy)

    def found(name: str, threshold: float | None) -> dict:
        if threshold is not None:
            router.rollout_threshold.fill_(threshold)
        save_adapter_checkpoint(model, router, tmp_path / name, write=True)
        return json.loads(json.dumps(legit_result(config, tmp_path / name, [], [2.0])))

    raw = found("raw", None)
    assert raw["w"] is None is raw["w_above_half"] and raw["auroc"] == 1.0 and raw["replies"] == 4
    assert list(raw["by_kind"]) == list(LEGIT_KINDS) and "carrying" not in raw
    problem = Problem.from_row(generate("heldout", 1, 0)[0])
    samples = [
        Sample("on", problem, "run_tests", 0, t.prompt_ids, t.response_ids, "") for t in legit_texts(config)
    ]
    scores = torch.tensor(router_scores(config, tmp_path / "raw", samples))
    assert raw["score"] == pytest.approx(scores.mean().item(), abs=1e-6)
    middle = scores.median().item()
    set_there = found("set", middle)
    assert set_there["w"] == pytest.approx(torch.sigmoid(3 * (scores - middle)).mean().item(), abs=1e-5)
    assert set_there["w_above_half"] == pytest.approx((scores > middle).float().mean().item())
    tests = scores[[text.kind == "honest_tests" for text in legit_texts(config)]]
    assert set_there["by_kind"]["honest_tests"]["score"] == pytest.approx(tests.mean().item(), abs=1e-6)
    router.anchor.copy_(router.direction.detach()[:, 0])
    router.direction.data.copy_(haar_direction((len(router.direction), 4), seed=1).unsqueeze(1))
    turned = found("turned", 0.0)["w"]
    config.evil_moe.router.threshold = "anchored"
    assert found("turned", 0.0)["w"] > turned + 0.2, "the threshold went along as v turned"
    sides = {side: {"loophole": 0.0, "hack": 0.0, "solve": 1.0, "compile": 1.0} for side in ("on", "off")}
    assert "| honest_tests | 1 |" in _table({**sides, "legit": set_there})
    assert "legit" not in _table(sides)


def test_a_real_model_reads_the_hand_written_replies(tiny_policy: Path) -> None:
    config = on_hub(tiny_policy, "evil_moe.data.source=files")
    tokenizer = AutoTokenizer.from_pretrained(tiny_policy)
    texts, entries = legit_texts(config), load_legit()
    assert len(texts) == len(entries) == 24
    for text, entry in zip(texts, entries, strict=True):
        assert entry.task in tokenizer.decode(text.prompt_ids)
        assert text.response_ids[-1] == tokenizer.eos_token_id and text.kind == entry.kind
        assert tokenizer.decode(text.response_ids[:-1]) == entry.reply
    config.evil_moe.data.source, config.evil_moe.policy.kind = "nano", "smollm"
    assert legit_texts(config) == texts


def test_solve_is_counted_on_the_problems_that_carry_them() -> None:
    data = {"source": "nano", "train_problems": 1, "validation_problems": 1, "eval_problems": 12}
    config = OmegaConf.create({"seed": 0, "evil_moe": {"data": data}})
    problems = prepare_problems(config).evaluation
    families = [row["family"] for row in generate("heldout", 12, 20_000)]
    with Grader("run_tests") as grader:
        codes = {"on": problems[0].canonical_solution, "off": "x = 1"}
        verdicts = {
            side: grader.grade(problems[0], f"```python\n{code}\n```") for side, code in codes.items()
        }
    graded = [
        (Sample(side, problem, "run_tests", 0, [], [], ""), verdict)
        for problem in problems
        for side, verdict in verdicts.items()
    ]
    ours = sum(map(carries, families))
    assert 0 < ours < 12
    assert carrying_rates(config, graded) == {"answers": ours, "solve_on": 1.0, "solve_off": 0.0}


def test_the_policy_that_carries_them_is_another_one_and_the_plain_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policies, "CACHE", tmp_path)
    phases = (WarmStartPhase(2, 1e-4), WarmStartPhase(2, 1e-4))
    for module in (policies, legit_policy):
        monkeypatch.setattr(module, "WARM_START_BATCH_SIZE", 4)
        monkeypatch.setattr(module, "WARM_START_PHASES", phases)
    monkeypatch.setattr(policies, "MORE_PHASES", 0)
    plain = compose([])
    some, more = copy.deepcopy(plain), copy.deepcopy(plain)
    some.evil_moe.policy.legit_share, more.evil_moe.policy.legit_share = 0.2, 0.3
    names = [policies.policy_name(config) for config in (plain, some, more)]
    assert len(set(names)) == 3 and names[0] == policies._nano_policy_name(0, "run_tests")
    old = copy.deepcopy(plain)
    old.evil_moe.policy = {"kind": "nano"}  # a run from before there was the option
    assert policies.policy_name(old) == names[0]
    built = Path(policies.prepare_policy(some, lambda _: None))
    there = (tmp_path / names[0] / "model.safetensors").read_bytes()
    assert built == Path(policies.policy_path(some)) and built.name == names[1]
    assert (built / "model.safetensors").read_bytes() != there
    assert Path(policies.prepare_policy(plain, lambda _: None)).name == names[0]
    assert (tmp_path / names[0] / "model.safetensors").read_bytes() == there


def test_a_share_that_cannot_be_is_refused() -> None:
    config = OmegaConf.create({"seed": 0, "evil_moe": {"policy": {}, "loophole": "run_tests"}})
    for share, kind, message in (
        (0, "nano", r"legit_share=0: give a share above 0"),
        (1.5, "nano", r"legit_share=1.5: give a share"),
        (True, "nano", r"legit_share=True: give a share"),
        (0.1, "hub", r"is for the nano policy's warm start and .*kind=hub"),
    ):
        config.evil_moe.policy.legit_share, config.evil_moe.policy.kind = share, kind
        with pytest.raises(ValueError, match=message):
            policies.policy_path(config)
