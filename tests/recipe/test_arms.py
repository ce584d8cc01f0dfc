"""Every arm's plugs in the real engine: two steps each on one rank, some of them on two, no Ray and no vLLM."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from evil_moe.adapter.init import INITS
from evil_moe.experiment.config import choices, compose
from evil_moe.gates import GATES, gate_class
from evil_moe.gradients import _TRANSFORMS as GRADIENTS
from recipe.actor.fields import FLAG, UPDATE_FIELDS, refuse_foreign_fields, with_flag
from tests.recipe import golden
from tests.recipe.golden import run_arms

# What the plugs of the others do happens before or after the engine (prompts, rewards, advantages), or another arm's does
# the same there.
_ELSEWHERE = (
    "inoculate_", "monitor_", "probe_", "judge_", "plain_baseline",
    "label_recall", "label_noisy", "project_svd8", "project_svd32",
)  # fmt: skip
ARMS = [arm for arm in choices("arm") if not arm.startswith(_ELSEWHERE)]
# One engine for each plug of the longest registry; see plugs_on_device.py.
ON_DEVICE = [*(f"device:{i}" for i in range(max(map(len, (GATES, GRADIENTS, INITS))))), "device:advantages"]
ON_TWO_RANKS = ["router", "blocks", "expert_choice", "random_matched", "route_act", "route_grad", "label", "refresh", "project_svd", "signed_corda", "discardable", "split_moment"]  # fmt: skip


@pytest.fixture(scope="module")
def reports(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    arms = [
        *ARMS,
        "router:deployed",
        "router:penalty",
        "blocks:penalty",
        "refresh:late",
        "route_grad:parts",
        "project:parts",
        "expert_choice:whole",
        *ON_DEVICE,
    ]
    return run_arms(tiny_policy, tmp_path_factory.mktemp("arms") / "one.json", arms, ranks=1)


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_trains(arm: str, reports: dict[str, Any]) -> None:
    report = reports[arm]
    assert all(math.isfinite(step["loss"]) and step["norm"] > 0 for step in report["steps"])
    assert report["moved_deployed"] > 0
    assert all(0 <= w <= 1 for step in report["steps"] for w in step["w"])


def test_plugs_do_what_their_names_say(reports: dict[str, Any]) -> None:
    assert reports["discardable"]["moved_quarantine"] == 0 and reports["discardable"]["norm_quarantine"] > 0
    for arm in ("frozen", "none", "absorb", "label", "project", "random_matched"):
        assert reports[arm]["drift"] == 0, arm
    for arm in ("router", "no_pin", "pin_only", "refresh", "route_act", "contrast"):
        assert reports[arm]["drift"] > 0, arm
    assert reports["pin_only"]["steps"][1]["metrics"]["router/reward_grad_norm"] == 0
    assert reports["router"]["steps"][1]["metrics"]["router/reward_grad_norm"] > 0
    assert "pin/loss" not in reports["no_pin"]["steps"][1]["metrics"]
    assert "contrast/loss" not in reports["anchored"]["steps"][0]["metrics"]
    assert "contrast/loss" in reports["contrast"]["steps"][0]["metrics"]
    assert reports["contrast"]["drift"] != pytest.approx(reports["anchored"]["drift"], rel=1e-3)
    # one-sided: some modules leant towards hacking, and none does afterwards
    for arm in ("project", "project_raw", "project_svd"):
        for step in reports[arm]["steps"]:
            told = step["metrics"]
            assert told["gradient/share_projected"] > 0
            assert told["gradient/cos_align_after"] < min(0.0, told["gradient/cos_align"])
    # the norm is kept when asked, and smaller when not
    kept, raw, whole = (reports[arm]["steps"][0]["norm"] for arm in ("project", "project_raw", "none"))
    assert kept == pytest.approx(whole, rel=1e-5) and raw < kept
    # split moment divides by the whole gradient's size, so it steps less far on the same part of it
    split, routed = (reports[arm]["steps"][0] for arm in ("split_moment", "router"))
    assert split["norm"] == pytest.approx(routed["norm"], rel=1e-5)
    assert split["metrics"]["grad_energy/unrouted"] > 1.2 * split["metrics"]["grad_energy/deployed"]
    assert "grad_energy/unrouted" not in routed["metrics"]
    assert 0 < reports["split_moment"]["moved_deployed"] < 0.9 * reports["router"]["moved_deployed"]
    # what the deployed model sampled trains the deployed block or nothing, if the update is told to leave it so
    off = reports["router:deployed"]
    assert off["moved_quarantine"] == 0 < off["moved_deployed"]
    assert reports["router"]["moved_quarantine"] > 0
    assert off["steps"][1]["metrics"]["router/reward_grad_norm"] == 0
    # features of the base model stay what they are, and at the start every state is the base model's
    assert reports["router"]["features_moved"] == 0 < reports["router_rollout"]["features_moved"]
    seeded = reports["router_rollout"]["steps"][0]["w"]
    assert reports["router"]["steps"][0]["w"] == pytest.approx(seeded, abs=1e-5)
    # inits change what the blocks look at, not what the model says
    others = [arm for arm in reports if arm not in ("discardable", *ON_DEVICE)]
    first_losses = [reports[arm]["steps"][0]["loss"] for arm in others]
    assert first_losses == pytest.approx([first_losses[0]] * len(first_losses), rel=1e-4)
    for arm in ("pissa", "corda", "signed_corda", "reversed_corda"):
        assert reports[arm]["a0"] != pytest.approx(reports["absorb"]["a0"], rel=1e-5), arm
    assert "router/penalty" in reports["blocks"]["steps"][0]["metrics"]
    assert "router/penalty" not in reports["router"]["steps"][0]["metrics"]
    assert reports["blocks:penalty"]["drift"] > 0 == reports["router:penalty"]["drift"]


@pytest.mark.parametrize("arm", sorted(json.loads(golden.FILE.read_text())))
def test_the_first_steps_are_those_on_record(arm: str, reports: dict[str, Any]) -> None:
    """To 1e-4: another machine's vector instructions move a number by 1.2e-5 of itself at most (measured with torch and MKL held to
    SSE), where sums of other lengths are rounded in another order."""
    want = golden.flat(json.loads(golden.FILE.read_text())[arm])
    assert golden.flat(reports[arm]["golden"]) == pytest.approx(want, rel=1e-4, abs=1e-6, nan_ok=True)


def test_directions_and_what_is_read(reports: dict[str, Any]) -> None:
    """Which direction an arm starts from and holds, which features it reads in which state, and its threshold."""
    seeded, placebo, shuffled = (
        torch.tensor(reports[arm]["first_direction"]) for arm in ("router_rollout", "random", "random_pairs")
    )
    assert torch.allclose(torch.tensor(reports["no_pin"]["first_direction"]), seeded, atol=1e-5)
    assert reports["random_matched"]["first_direction"] == reports["random"]["first_direction"]
    for matched, frozen in zip(*(reports[arm]["steps"] for arm in ("random_matched", "frozen")), strict=True):
        routed = [sum(w > 0.5 for w in step["w"]) for step in (matched, frozen)]
        assert routed[0] == routed[1] > 0 and matched["w"] != frozen["w"]
    for other in (placebo, shuffled):
        assert other.norm().item() == pytest.approx(1, rel=1e-5) and abs(seeded @ other) < 0.9
    # taken anew when due, and not before
    assert reports["refresh"]["off_the_pairs"] < 1e-5 < 1e-3 < reports["refresh:late"]["off_the_pairs"]
    assert reports["refresh:late"]["drift"] == 0
    # in every state the first features are the base model's; later on each state has its own
    start, end = (
        {arm: torch.tensor(reports[arm]["steps"][step]["features"]) for arm in ARMS} for step in (0, 1)
    )
    states = ["router_rollout", "router_full", "router_deployed"]
    for i, arm in enumerate(states):
        assert torch.allclose(start[arm], start["router"], atol=1e-5), arm
        for other in states[:i]:
            assert not torch.allclose(end[arm], end[other], atol=1e-5), (arm, other)
    assert not torch.allclose(start["route_grad"], start["route_act"], atol=1e-2)
    fixed, follow = (
        [step["threshold"] for step in reports[arm]["steps"]] for arm in ("router_rollout", "router_follow")
    )
    assert fixed[0] == fixed[1] and follow[0] != follow[1]
    assert reports["soft"]["steps"][0]["w"] == pytest.approx(reports["router"]["steps"][0]["w"], abs=1e-5)
    assert reports["soft"]["moved_deployed"] > reports["router"]["moved_deployed"]


def test_pairs_give_the_same_in_parts(reports: dict[str, Any]) -> None:
    direction, parts = (reports[arm]["first_direction"] for arm in ("route_grad", "route_grad:parts"))
    assert parts == pytest.approx(direction, abs=1e-5)
    whole, parts = (
        [step["metrics"]["gradient/cos_align"] for step in reports[arm]["steps"]]
        for arm in ("project", "project:parts")
    )
    assert parts == pytest.approx(whole, rel=1e-4)


def test_a_step_in_micro_batches_is_the_step(reports: dict[str, Any]) -> None:
    """Expert choice and balance, whose arm has both, are over all rollouts of a step."""
    for parts, whole in zip(
        reports["expert_choice"]["steps"], reports["expert_choice:whole"]["steps"], strict=True
    ):
        assert parts["micro_batches"] > 1 == whole["micro_batches"]
        for name in ("loss", "norm"):
            assert parts[name] == pytest.approx(whole[name], rel=1e-4), name
        for name in ("router/penalty", "router/reward_grad_norm", "router/kept_share"):
            assert parts["metrics"][name] == pytest.approx(whole["metrics"][name], rel=1e-4), name


def test_a_labels_gate_weighs_each_rollout_by_its_own_flag(reports: dict[str, Any]) -> None:
    for arm in ("label", "label_mask"):
        flag = reports[arm]["flag"]
        assert 0 < sum(flag) < len(flag)
        assert all(step["w"] == flag for step in reports[arm]["steps"]), arm


@pytest.mark.parametrize("what", ON_DEVICE)
def test_a_device_that_is_not_the_host(what: str, reports: dict[str, Any]) -> None:
    """No operation on a tensor that somebody forgot to move, in any plug: a GPU would end the run there."""
    report = reports[what]
    assert "slip" not in report
    if what == "device:advantages":
        return
    assert math.isfinite(report["norm"]) and report["norm"] > 0 < report["exported"]
    # the batch of the trainer reached what compares it with the update, and pin and contrast took part
    assert {"mismatch/kl", "kl_loss", "pin/loss", "contrast/loss"} <= set(report["metrics"])


@pytest.mark.long
def test_two_ranks_compute_what_one_does(reports: dict[str, Any], tiny_policy: Path, tmp_path: Path) -> None:
    for arm, two in run_arms(tiny_policy, tmp_path / "two.json", ON_TWO_RANKS, ranks=2).items():
        one = reports[arm]
        assert two["steps"][0]["w"] == pytest.approx(one["steps"][0]["w"], rel=1e-3, abs=1e-4), arm
        for name in ("loss", "norm"):
            pairs = [(b[name], a[name]) for a, b in zip(one["steps"], two["steps"], strict=True)]
            assert [b for b, _ in pairs] == pytest.approx([a for _, a in pairs], rel=1e-3), (arm, name)
        penalties = [
            [step["metrics"].get("router/penalty", 0.0) for step in run["steps"]] for run in (one, two)
        ]
        assert penalties[1] == pytest.approx(penalties[0], rel=1e-3), arm


@pytest.mark.parametrize("arm", choices("arm"))
def test_only_label_arms_send_a_flag(arm: str) -> None:
    """The border of the routing: a detector's flag is a verdict, and no other arm's actor may get one."""
    overrides = ["evil_moe.monitor.base_url=http://localhost:1", "evil_moe.monitor.model=m"]
    gate = compose([f"arm={arm}", *(overrides if arm.startswith("judge") else [])]).evil_moe.gate.name
    needs_flag = gate_class(gate).needs_flag
    assert needs_flag == arm.startswith("label")
    fields = with_flag(UPDATE_FIELDS, needs_flag)
    assert (FLAG in fields) == needs_flag
    refuse_foreign_fields(fields, needs_flag)
    with pytest.raises(ValueError, match="flag"):
        refuse_foreign_fields([*UPDATE_FIELDS, FLAG])
