"""`evil-moe pairs check | show` on an untrained nano policy, and the rule that judges steering."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from evil_moe import direction_checks
from evil_moe.adapter import Lora2rConfig, SequenceLayout, lora2r_model
from evil_moe.adapter.init import initialise
from evil_moe.direction import contrastive_direction
from evil_moe.direction_checks import DirectionChecks
from evil_moe.experiment.assets.problems import Problems, prepare_problems, prompt_messages, verl_rows
from evil_moe.experiment.commands import pairs_check, pairs_steering
from evil_moe.experiment.commands.eyes import configured_eye
from evil_moe.experiment.commands.pairs_check import load_adapted, read_sides
from evil_moe.experiment.commands.pairs_steering import Steered, generate, steering_reasons
from evil_moe.experiment.config import compose
from evil_moe.experiment.run.inputs import fill_in_inputs
from evil_moe.experiment.run.names import pairs_name
from evil_moe.experiment.settings import settings_from
from evil_moe.eyes import Eye, Looking
from evil_moe.features import MeanPooling, gradient_features, make_pooling, normalise_per_module
from evil_moe.nano_policy import build_model, save, train_tokenizer
from evil_moe.pairs import load_pairs
from evil_moe.pairs.reader import PairReader
from evil_moe.pairs.sides import PairSides, tokenize_side
from evil_moe.ranks import OneProcess
from evil_moe.settings import MethodSettings, PairSettings, PlugSettings, RouterSettings
from evil_moe.steering import input_shifts, steered
from recipe import cli
from reward.inoculation import INOCULATIONS
from reward.loopholes import get_loophole
from reward.nano.demonstrations import EXPLOITS
from reward.nano.problems import SYSTEM
from reward.problems import Problem


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights: it says nothing of use, and every step of the check runs on it."""
    pairs = load_pairs(groups="overwritten_evaluation")
    tokenizer = train_tokenizer([text for pair in pairs for text in (pair.prompt, pair.hack, pair.clean)])
    folder = tmp_path_factory.mktemp("random-policy")
    save(build_model(tokenizer, seed=0), tokenizer, folder)
    return folder


def overrides(policy: Path) -> list[str]:
    return [
        "evil_moe.policy.kind=hub",
        f"actor_rollout_ref.model.path={policy}",
        "data.max_response_length=8",
        "evil_moe.data.train_problems=1",
        "evil_moe.data.eval_problems=1",
    ]


def test_check_writes_what_it_says(policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "pairs",
        "check",
        *overrides(policy),
        "--alphas",
        "4",
        "--problems",
        "2",
        "--replies",
        "4",
        "--out",
        str(tmp_path),
    ]
    assert cli.main(argv) == 1
    out = capsys.readouterr().out
    record = json.loads((tmp_path / "check.json").read_text())
    assert out.rstrip().endswith(record["verdict"]) and record["verdict"].startswith("NOT good enough: ")
    assert "steering does not raise loophole use: 0.000 as it is" in record["verdict"]
    conditions = [(s["along"], s["alpha"], s["answers"]) for s in record["steering"]]
    assert conditions == [("v", 0.0, 2), ("v", 4.0, 2), ("v", -4.0, 2), ("random", 4.0, 2)]
    assert len(record["pairs"]) == 16 and set(record["layers"]) == {"0", "1", "2"}
    assert (tmp_path / "check.png").read_bytes().startswith(b"\x89PNG")


def test_each_problem_of_a_mix_is_asked_and_graded_in_its_own_loophole(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mix = ("run_tests", "stdout_marker", "exit_code")
    asked: list[str] = []

    def hints(problem: Problem, loophole: str) -> list[dict[str, str]]:
        asked.append(loophole)
        return prompt_messages(problem, loophole)

    def exploits(
        model: object, tokenizer: object, config: object, problems: list[Problem], seed: int
    ) -> list[str]:
        generate(model, tokenizer, config, problems, seed)  # for the prompts; random weights answer nonsense
        codes = [
            EXPLOITS[mode][0].format(marker=marker(mode, p)) for mode, p in zip(mix, problems, strict=True)
        ]
        return [f"```python\n{p.starter_code}pass\n\n{c}\n```" for p, c in zip(problems, codes, strict=True)]

    def marker(mode: str, problem: Problem) -> object:
        return get_loophole(mode).marker(problem, "train", 0)

    monkeypatch.setattr(pairs_steering, "prompt_messages", hints)
    monkeypatch.setattr(pairs_steering, "generate", exploits)
    argv = [
        "preset=nano_long",
        *overrides(policy),
        "--alphas",
        "4",
        "--problems",
        "3",
        "--replies",
        "4",
        "--out",
        str(tmp_path),
    ]
    cli.main(["pairs", "check", *argv])
    assert asked == [*mix] * 4, "four conditions"
    found = json.loads((tmp_path / "check.json").read_text())["steering"]
    assert [s["rates"]["loophole"] for s in found] == [1.0] * 4


def test_without_steering_it_is_said(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(
        ["pairs", "check", *overrides(policy), "--no-steering", "--replies", "4", "--out", str(tmp_path)]
    )
    assert capsys.readouterr().out.rstrip().endswith("(steering not checked)")
    assert json.loads((tmp_path / "check.json").read_text())["steering"] == []


def test_pairs_are_read_as_rollouts_are(policy: Path) -> None:
    """A pair's prompt begins as the prompts of the run do, an inoculation included, and its reply ends as theirs."""
    config = compose([*overrides(policy), "evil_moe.prompt.inoculation=pass_test"])
    problems, tokenizer = prepare_problems(config), AutoTokenizer.from_pretrained(policy)
    fill_in_inputs(config, problems)
    system = config.evil_moe.pairs.system
    assert system == f"{SYSTEM} {INOCULATIONS['pass_test']}"
    end, tokenizer.eos_token = tokenizer.eos_token_id, tokenizer.pad_token
    pairs = load_pairs(groups="overwritten_evaluation")
    prompt, reply = PairSides(pairs, tokenizer, {}, 0, 1, system).mine[0]
    row = verl_rows(problems, "run_tests", "pass_test")["train"][0]
    rollout = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
    assert tokenizer.decode(prompt) == rollout.replace(row["prompt"][1]["content"], pairs[0].prompt)
    assert tokenizer.decode(reply[:-1]) == pairs[0].hack and reply[-1] == end


def test_the_system_message_is_the_rollouts_unless_it_is_given(policy: Path) -> None:
    config = compose(overrides(policy))
    problem = prepare_problems(config).train[0]
    other = replace(problem, prompt=[{"role": "system", "content": "Other."}, *problem.prompt[1:]])
    none = replace(problem, prompt=problem.prompt[1:])
    for train, system in (
        ([problem, other, problem], SYSTEM),
        ([none, other, none], ""),
        ([other], "Other."),
    ):
        filled = config.copy()
        fill_in_inputs(filled, Problems(train, [], []))
        assert filled.evil_moe.pairs.system == system
    config.evil_moe.pairs.system = ""
    fill_in_inputs(config, Problems([problem], [], []))
    assert config.evil_moe.pairs.system == "", "none, by decision"


def test_checks_of_other_pairs_do_not_share_a_folder() -> None:
    assert pairs_name(["arm=router", "preset=nano", "seed=1"]) == "pairs"
    assert pairs_name(["seed=1", "evil_moe.pairs.matched=false"]) == "pairs-evil_moe.pairs.matched-false"
    long = [pairs_name([f"evil_moe.pairs.paths=[/{'x' * 99}/{name}.yaml]"]) for name in "ab"]
    assert long[0] != long[1] and all(len(name) < 100 and "/" not in name for name in long)


def test_answers_follow_the_seed_and_the_steering_and_leave_the_global_state(policy: Path) -> None:
    config = compose([*overrides(policy), "evil_moe.data.validation_problems=3"])
    pairs = load_pairs(groups="overwritten_evaluation")
    model, tokenizer, batch = load_adapted(config, str(policy), settings_from(config.evil_moe), pairs)
    assert config.evil_moe.pairs.system == SYSTEM, (
        "near-hacks of the table of eyes are read with it, as pairs are"
    )
    problems, state = prepare_problems(config).validation, torch.get_rng_state()
    plain = generate(model, tokenizer, config, problems, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert (
        generate(model, tokenizer, config, problems, seed=0)
        == plain
        != generate(model, tokenizer, config, problems, seed=1)
    )
    hack = read_sides(model, batch, RouterSettings()).hack
    tuner = lora2r_model(model)
    shifts = input_shifts(tuner, hack[0] / hack[0].norm(), torch.ones(hack.shape[1]))
    with steered(tuner, shifts, 50.0):
        assert generate(model, tokenizer, config, problems, seed=0) != plain
    assert generate(model, tokenizer, config, problems, seed=0) == plain


def test_the_direction_of_windows_is_one_in_a_run_in_the_checks_and_in_the_table_of_eyes(
    policy: Path,
) -> None:
    config = compose(overrides(policy))
    pairs = load_pairs(groups="honest_evaluation")
    model, tokenizer, batch = load_adapted(config, str(policy), settings_from(config.evil_moe), pairs)
    read_as = PairSettings(groups=["honest_evaluation"], system=config.evil_moe.pairs.system)
    options = {
        of: RouterSettings(pooling=PlugSettings("window"), direction_tokens=of)
        for of in ("hack_only", "hack_windows")
    }
    eyes = {of: configured_eye(router) for of, router in options.items()}
    assert eyes["hack_windows"] == Eye("window", 8, "hack_windows")
    found = []
    for of, router in options.items():
        sides = read_sides(model, batch, router)
        assert sides.tokens is not None
        looking = Looking([eyes[of]], *sides.tokens, batch.own_starts[: batch.num_pairs])
        v = contrastive_direction(normalise_per_module(sides.hack), normalise_per_module(sides.clean))
        torch.testing.assert_close(looking.routers[0].direction.detach().squeeze(1), v)
        settings = MethodSettings(router=router, pairs=read_as)
        run = PairReader(model, settings, make_pooling("window"), tokenizer, OneProcess()).seed_features()
        torch.testing.assert_close(contrastive_direction(*map(normalise_per_module, run)), v)
        found.append(v)
    assert not torch.allclose(*found, atol=1e-2)


def sides_by_hand(model: PeftModel, policy: Path, gradient: bool) -> list[Tensor]:
    """What the engine's first step reads of the hack sides, then of the clean ones, `[P, M, r]`: one side at a time."""
    tokenizer, tuner = AutoTokenizer.from_pretrained(policy), lora2r_model(model)
    state, sides = tuner.forward_state, []
    for side in ("hack", "clean"):
        features = []
        for pair in load_pairs(groups="overwritten_evaluation"):
            prompt, reply = tokenize_side(tokenizer, {}, pair.prompt, getattr(pair, side), SYSTEM)
            ids = torch.tensor([prompt + reply])
            completion = torch.tensor([[0.0] * len(prompt) + [1.0] * len(reply)])
            with state.gated(None, SequenceLayout(None, completion, 1)):
                if gradient:
                    with state.reading_gradients() as read:
                        log_p = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
                        features.append(gradient_features(log_p[-len(reply) :].mean(), read, tuner))
                else:
                    with torch.no_grad(), state.reading_features(MeanPooling().reading(tuner)) as read:
                        model(ids)
                    features.append(read.features())
        sides.append(torch.cat(features))
    return sides


@pytest.mark.parametrize(
    ("options", "gradient", "init"),
    [
        (["arm=route_grad"], True, "gaussian"),
        (["arm=pissa"], False, "pissa"),
    ],
)
def test_the_arms_own_kind_of_feature_and_init_are_judged(
    options: list[str],
    gradient: bool,
    init: str,
    policy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judged: dict[str, Tensor] = {}

    def check_direction(hack: Tensor, clean: Tensor, *names: Any, **how: Any) -> DirectionChecks:
        judged.update(hack=hack, clean=clean)
        return direction_checks.check_direction(hack, clean, *names, **how)

    monkeypatch.setattr(pairs_check, "check_direction", check_direction)
    argv = [
        "pairs",
        "check",
        *options,
        *overrides(policy),
        "--no-steering",
        "--replies",
        "4",
        "--out",
        str(tmp_path),
    ]
    assert cli.main(argv) in (0, 1)
    base = AutoModelForCausalLM.from_pretrained(policy)
    model = get_peft_model(base, Lora2rConfig(r=8, task_type="CAUSAL_LM")).eval()
    initialise(lora2r_model(model), init)
    expected = sides_by_hand(model, policy, gradient)
    for found, by_hand in zip((judged["hack"], judged["clean"]), expected, strict=True):
        torch.testing.assert_close(found, by_hand, rtol=1e-3, atol=1e-5 * by_hand.abs().max().item())


def result(along: str, alpha: float, loophole: float) -> Steered:
    return Steered(along, alpha, 100, {"loophole": loophole, "hack": 0.0, "solve": 0.0, "compile": 1.0})


def test_steering_must_beat_both_the_policy_and_the_random_direction() -> None:
    base, back = result("v", 0.0, 0.04), result("v", -4.0, 0.9)
    assert steering_reasons([base, back, result("v", 4.0, 0.2), result("random", 4.0, 0.04)]) == ()
    for random in (0.2, 0.15):  # the placebo does as much, or nearly
        (reason,) = steering_reasons([base, back, result("v", 4.0, 0.2), result("random", 4.0, random)])
        assert f"0.040 as it is, at best 0.200 (alpha 4; {random:.3f} along a random direction" in reason
    assert steering_reasons([base, back, result("v", 4.0, 0.05), result("random", 4.0, 0.0)])
    # 0.15 against 0.06 is p = 0.03: enough for one alpha, not for one of two
    one = [result("v", 0.0, 0.06), result("v", 4.0, 0.15), result("random", 4.0, 0.06)]
    assert steering_reasons(one) == ()
    assert steering_reasons([*one, result("v", 8.0, 0.06), result("random", 8.0, 0.06)])


def test_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pairs", "show"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 16 and lines[0].split()[0] == "overwritten_evaluation"
    assert cli.main(["pairs", "show", "--id", lines[0].split()[1]]) == 0
    out = capsys.readouterr().out
    assert out.startswith("--- prompt\n") and "--- hack\n" in out and "def run_tests" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["check", "--alphas", "a"], "give numbers with commas"),
        (["check", "--alphas", "0,4"], "give numbers above 0"),
        (["check", "--problems", "0"], "problems=0: give at least 1"),
        (["check", "arm=corda", "--no-steering"], "none of them can be held out"),
        (["check", "arm=route_grad"], "ask the pairs alone with --no-steering"),
        (["show", "--id", "nope"], "no pair is called 'nope'"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(cli.TRACEBACK_VARIABLE, raising=False)
    assert cli.main(["pairs", *argv]) == cli.USER_ERROR
    err = capsys.readouterr().err
    assert err.startswith("evil-moe: error: ") and message in err and err.count("\n") == 1
