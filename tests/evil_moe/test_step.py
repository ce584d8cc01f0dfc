"""A step of the method in one process, without verl: what it reads, where its thresholds lie, and what moves its parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from evil_moe import nano_policy
from evil_moe.adapter import GateWeights, Lora2rConfig, SequenceLayout, lora2r_model
from evil_moe.build import install, parameter_groups
from evil_moe.features import MeanPooling
from evil_moe.hack_gradient import pair_nll
from evil_moe.passes import ReadPass, Rollouts, UpdatePass
from evil_moe.pin import pin_loss
from evil_moe.ranks import OneProcess
from evil_moe.seeding import calibrate_on_pairs
from evil_moe.settings import AdapterSettings, MethodSettings, PairSettings, PinSettings, PlugSettings
from evil_moe.step import MethodStep
from tests.conftest import perturb

ROLLOUTS, LENGTH, PROMPT, RATE = 6, 12, 5, 1e-2
ON = (torch.arange(ROLLOUTS) % 2).float()
IDS = torch.randint(5, 250, (ROLLOUTS, LENGTH), generator=torch.Generator().manual_seed(0))
COMPLETION = (torch.arange(LENGTH) >= PROMPT).float().expand(ROLLOUTS, -1).clone()
ADVANTAGES = torch.randn(ROLLOUTS, generator=torch.Generator().manual_seed(1))
PAIRS = """
group: short
reply: text
pairs:
  - {id: one, task: add them, hack: return 5, clean: return a + b}
  - {id: two, task: sort it, hack: "return [1, 2]", clean: return sorted(x)}
"""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return nano_policy.train_tokenizer(["def f(nums):\n    return [x for x in nums]\n"] * 8, vocab_size=300)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> MethodSettings:
    """The defaults, on two short pairs."""
    path = tmp_path_factory.mktemp("pairs") / "short.yaml"
    path.write_text(PAIRS)
    return MethodSettings(pairs=PairSettings(paths=[str(path)]))


class Run:
    """A policy with the method on it, and steps on six fixed rollouts: what an engine does, in one process.

    Args:
        moved: the adapter stands off its init, as in the middle of a run.
    """

    def __init__(self, tokenizer: Any, settings: MethodSettings, moved: bool = True):
        blocks = settings.adapter.num_quarantine
        config = Lora2rConfig(r=4, num_quarantine=blocks, quarantine_rank=4 // blocks, task_type="CAUSAL_LM")
        self.model: PeftModel = get_peft_model(nano_policy.build_model(tokenizer, seed=0), config).eval()
        if moved:
            perturb(self.model)
        install(self.model, settings)
        groups = parameter_groups(self.model, settings.router, RATE)
        self.optimizer = torch.optim.AdamW(groups, lr=RATE)
        self.step = MethodStep(self.model, settings, tokenizer, OneProcess())
        self.step.start(self.optimizer)

    def forward(self, over: ReadPass | UpdatePass, rollouts: Rollouts, rows: slice) -> Tensor | None:
        """One micro-batch: the features that it shows, or its loss with a backward."""
        part = Rollouts(
            rollouts.quarantine_on[rows],
            None if rollouts.features is None else rollouts.features[rows],
            in_step=None if rollouts.in_step is None else rollouts.in_step[rows],
        )
        with over.forward(part) as running:
            self.step.tuner.forward_state.set(
                running.weights, SequenceLayout(None, COMPLETION[rows], len(part))
            )
            nll = pair_nll(self.model, IDS[rows], torch.ones_like(IDS[rows]), COMPLETION[rows])
            if running.features is not None:
                return running.features(lambda: -nll.sum())
        loss = (nll * ADVANTAGES[rows]).sum() / ROLLOUTS + running.penalty()
        loss.backward()
        self.step.tuner.forward_state.clear()
        return None

    def read(self) -> Rollouts:
        with torch.no_grad():
            features = self.forward(self.step.read_pass(), Rollouts(ON), slice(None))
        self.step.tuner.forward_state.clear()
        return Rollouts(ON, features)

    def update(self, rollouts: Rollouts, parts: Sequence[slice] = (slice(None),)) -> dict[str, float]:
        self.optimizer.zero_grad()
        over = self.step.update_pass(rollouts)
        rollouts = replace(rollouts, in_step=over.in_step)

        def run(one: UpdatePass) -> None:
            for rows in parts:
                self.forward(one, rollouts, rows)

        run(over)
        return self.step.after_backward(over, run)

    def gradients(self) -> dict[str, Tensor]:
        return {n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None}


def relative(got: Tensor, want: Tensor) -> float:
    return ((got - want).norm() / want.norm()).item()


def test_what_is_read_is_scored_and_weighed(tokenizer: Any, settings: MethodSettings) -> None:
    """Each rollout in the state that made it; w by the formula, with the first step's median and the pairs' gap for a threshold."""
    run = Run(tokenizer, settings)
    router, state = run.step.router, run.step.tuner.forward_state
    rollouts = run.read()
    assert rollouts.features is not None
    for on in (0, 1):
        weights = GateWeights(m=torch.full((ROLLOUTS, 1), float(on)), d=torch.zeros(ROLLOUTS))
        layout = SequenceLayout(None, COMPLETION, ROLLOUTS)
        with (
            torch.no_grad(),
            state.gated(weights, layout),
            state.reading_features(MeanPooling().reading(run.step.tuner)) as reading,
        ):
            run.model(IDS)
        assert torch.allclose(rollouts.features[on == ON], reading.features()[on == ON], atol=1e-6)
    assert not router.is_calibrated
    seen = run.step.observe(rollouts, steps=0)
    v = run.step.direction_at_rest().detach()[:, 0]
    h = rollouts.features / rollouts.features.norm(dim=-1, keepdim=True)
    score = torch.cosine_similarity(h.flatten(1), v.flatten()[None])
    threshold = score.median() + 0.5 * router.gap
    assert torch.allclose(seen.score, score, atol=1e-6) and seen.concept is None
    assert torch.allclose(seen.weight, torch.sigmoid(8 / router.gap * (score - threshold)), atol=1e-4)
    # the second step's scores move no threshold
    run.step.observe(Rollouts(ON, rollouts.features.flip(0) + 1), steps=1)
    assert router.rollout_threshold.item() == pytest.approx(threshold.item(), rel=1e-6)


def test_an_update_in_parts_is_the_update(tokenizer: Any, settings: MethodSettings) -> None:
    """Gradients of all that moves, the gate's terms over the whole step among them."""
    gate = PlugSettings("router", {"assignment": "expert_choice", "balance": 0.5, "z_loss": 0.1})
    run = Run(tokenizer, replace(settings, gate=gate, adapter=AdapterSettings(num_quarantine=2)))
    rollouts = run.read()
    run.step.observe(rollouts, steps=0)
    told, found = [], []
    for parts in ((slice(None),), (slice(0, 2), slice(2, 3), slice(3, 6))):
        told.append(run.update(rollouts, parts))
        found.append(run.gradients())
    assert told[0]["router/penalty"] > 0 < told[0]["pin/loss"]
    assert told[1] == pytest.approx(told[0], rel=1e-4, abs=1e-6)
    assert found[0].keys() == found[1].keys()
    assert max(relative(found[1][name], found[0][name]) for name in found[0]) < 1e-4


def test_reward_and_pin_pull_on_the_direction(tokenizer: Any, settings: MethodSettings) -> None:
    """The pin adds its own gradient, by its weight, to that of the update; a gate that reward may not move leaves the pin's alone."""
    run = Run(tokenizer, replace(settings, pin=PinSettings(weight=0.0)))
    rollouts, v = run.read(), run.step.router.direction
    run.step.observe(rollouts, steps=0)
    told = run.update(rollouts)
    assert "pin/loss" not in told and v.grad is not None
    reward = v.grad.clone()
    assert told["router/reward_grad_norm"] == pytest.approx(reward.norm().item()) and reward.norm() > 0
    hack, clean = run.step.pairs.features(run.step.router.eyes())
    [pin] = torch.autograd.grad(pin_loss(run.step.router, hack, clean), v)
    run.step.settings = replace(run.step.settings, pin=PinSettings(weight=2.0))
    told = run.update(rollouts)
    assert relative(v.grad, reward + 2 * pin) < 1e-5
    assert told["pin/grad_norm"] == pytest.approx(2 * pin.norm().item(), rel=1e-4)
    router = replace(run.step.settings.router, reward_gradient=False)
    run.step.settings = replace(run.step.settings, router=router)
    assert run.update(rollouts)["router/reward_grad_norm"] == 0
    assert relative(v.grad, 2 * pin) < 1e-5


def test_what_the_deployed_block_is_not_to_learn(tokenizer: Any, settings: MethodSettings) -> None:
    """The kept share, and the gradient with d = 0 beside the routed one, which a second run of the update leaves as it is."""
    gradient = PlugSettings("split_moment", {"rank_deployed": 4})
    run = Run(tokenizer, replace(settings, gradient=gradient))
    rollouts = run.read()
    run.step.observe(rollouts, steps=0)
    over = run.step.update_pass(rollouts)
    with over.forward(rollouts) as running:
        d = running.weights.d
    told = run.update(rollouts)
    assert told["router/kept_share"] == pytest.approx((1 - d).mean().item()) and 0 < d.mean() < 1
    routed, due = run.gradients(), run.step.due
    assert due is not None and due.unrouted is not None
    # no gate: m as it was, d = 0
    run.optimizer.zero_grad()
    weights = GateWeights(m=running.weights.m.detach(), d=torch.zeros_like(d))
    with run.step.tuner.forward_state.gated(weights, SequenceLayout(None, COMPLETION, ROLLOUTS)):
        nll = pair_nll(run.model, IDS, torch.ones_like(IDS), COMPLETION)
        ((nll * ADVANTAGES).sum() / ROLLOUTS).backward()
    free = {n: p.grad for n, p in run.model.named_parameters() if "lora_2r_d" in n and p.grad is not None}
    assert due.unrouted.keys() == free.keys() <= routed.keys()
    assert max(relative(due.unrouted[name], free[name]) for name in free) < 1e-5
    assert max(relative(routed[name], free[name]) for name in free) > 0.1


def test_the_optimizers_step(tokenizer: Any, settings: MethodSettings) -> None:
    """Adapter and direction are clipped apart; a step that is not finite moves nothing; each step wants a backward of its own."""
    run = Run(tokenizer, replace(settings, pin=PinSettings(weight=1e4)))
    rollouts = run.read()
    run.step.observe(rollouts, steps=0)
    seen: list[tuple[int, float]] = []

    def clip(parameters: list[Tensor], most: float) -> Tensor:
        norm = clip_grad_norm_(parameters, most)
        seen.append((len(parameters), norm.item()))
        return norm

    run.update(rollouts)
    blocks = [g for name, g in run.gradients().items() if "lora_2r_d" in name]
    norm = torch.stack([g.norm() for g in blocks]).norm().item()
    pull = run.step.router.direction.grad.norm().item()
    before = [p.detach().clone() for p in run.model.parameters()]
    assert run.step.optimize(run.optimizer, 0.5, clip) == pytest.approx(norm, rel=1e-5)
    assert [n for n, _ in seen] == [len(blocks), 1] and pull > 100 * norm
    assert [told for _, told in seen] == pytest.approx([norm, pull], rel=1e-5)
    moved = [not torch.equal(p, old) for p, old in zip(run.model.parameters(), before, strict=True)]
    assert sum(moved) == len(blocks) + 1
    with pytest.raises(AssertionError, match="after_backward"):
        run.step.optimize(run.optimizer, 0.5, clip)
    run.update(rollouts)
    before = [p.detach().clone() for p in run.model.parameters()]
    run.step.router.direction.grad[0, 0, 0] = float("nan")
    run.step.optimize(run.optimizer, 0.5, clip)
    assert all(torch.equal(p, old) for p, old in zip(run.model.parameters(), before, strict=True))


def test_the_direction_is_taken_anew_when_it_is_due(tokenizer: Any, settings: MethodSettings) -> None:
    settings = replace(settings, router=replace(settings.router, refresh_every=2))
    run = Run(tokenizer, settings, moved=False)
    rollouts, router = run.read(), run.step.router
    run.step.observe(rollouts, steps=0)
    first = router.direction.detach().clone()
    perturb(run.model, seed=2)
    for steps in (1, 3):
        run.step.observe(run.read(), steps)
        assert torch.equal(router.direction, first)
    rollouts = run.read()
    clean = 1 - router.rollout_signals(rollouts.features).w
    run.step.observe(rollouts, steps=2)
    assert relative(router.direction, first) > 1e-3 and torch.equal(router.seed_direction, first)
    level = (clean * router.score(rollouts.features)).sum() / clean.sum()
    assert router.rollout_threshold.item() == pytest.approx((level + 0.5 * router.gap).item(), rel=1e-5)
    want = calibrate_on_pairs(router, run.step.pairs, settings)
    assert torch.allclose(router.direction, want, atol=1e-6)


def test_what_an_optimizer_is_given(tokenizer: Any, settings: MethodSettings) -> None:
    """dA and dB in one group, v in another without decay; nothing else is trained."""
    run = Run(tokenizer, settings)
    router = replace(run.step.settings.router, lr=3.0)
    adapter, direction = parameter_groups(run.model, router, RATE)
    blocks = [p for layer in lora2r_model(run.model).lora2r_layers() for p in (layer.lora_2r_dA["default"], layer.lora_2r_dB["default"])]  # fmt: skip
    assert {id(p) for p in adapter["params"]} == {id(p) for p in blocks} and "lr" not in adapter
    assert direction["params"] == [run.step.router.direction]
    assert (direction["lr"], direction["weight_decay"]) == (3.0, 0.0)
    assert len(parameter_groups(run.model, replace(router, learn=False), RATE)) == 1
