"""Every gate's defining property, on tiny hand-computed cases and on a real adapter."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor

from evil_moe.adapter import Lora2rConfig, SequenceLayout, lora2r_model
from evil_moe.features import gradient_features
from evil_moe.gates import GATES, Gate, RolloutSignals, make_gate
from evil_moe.gates.route_act import weighted_quantile
from evil_moe.router import Router
from tests.conftest import perturb, tiny_qwen3


def signals(w: list[float], num_blocks: int = 1, flag: list[float] | None = None) -> RolloutSignals:
    logits = torch.tensor(w).logit().unsqueeze(1).repeat(1, num_blocks).requires_grad_()
    return RolloutSignals(torch.tensor(w), logits, None if flag is None else torch.tensor(flag))


def test_router_gate_stops_the_deployed_block_above_the_threshold() -> None:
    given = signals([0.1, 0.3, 0.5, 0.8])
    weights = make_gate("router", hard_threshold=0.5)(given)
    torch.testing.assert_close(weights.m[:, 0], torch.tensor([0.1, 0.3, 0.5, 0.8]))
    assert weights.m.requires_grad and weights.d[3] == 1.0
    torch.testing.assert_close(weights.d[:3], torch.tensor([0.1, 0.3, 0.5]))
    torch.testing.assert_close(make_gate("router", hard_threshold=None)(given).d, given.w.detach())


def test_one_block_is_the_two_expert_router_to_the_bit() -> None:
    """w = sigmoid(scale * (cos(h, v) - threshold)) in one line, value and gradient."""
    generator = torch.Generator().manual_seed(0)
    features, v = torch.randn(64, 5, 4, generator=generator), torch.randn(5, 1, 4, generator=generator)
    router = Router(5, 4)
    with torch.no_grad():
        router.direction.copy_(v)
        router.scale.fill_(31.7)
        router.rollout_threshold.fill_(0.043)
    m = make_gate("router", balance=0.0)(router.rollout_signals(features)).m
    direct = router.direction.detach().clone().requires_grad_()
    cos = torch.nn.functional.cosine_similarity(
        router.prepare(features).flatten(1), direct.flatten()[None], dim=1
    )
    w = torch.sigmoid(router.scale * (cos - router.rollout_threshold))
    assert torch.equal(m[:, 0], w)
    upstream = torch.randn(64, generator=generator)
    (m[:, 0] * upstream).sum().backward()
    (w * upstream).sum().backward()
    assert router.direction.grad is not None and direct.grad is not None
    assert torch.equal(router.direction.grad, direct.grad)


def test_blocks_share_when_equal_and_specialise_when_not() -> None:
    equal = make_gate("router")(signals([0.2, 0.9], num_blocks=3))
    torch.testing.assert_close(equal.m, torch.tensor([[0.2] * 3, [0.9] * 3]))
    logits = torch.tensor([[4.0, -4.0, -4.0]])
    given = RolloutSignals(torch.tensor([1.0]), logits)
    m = make_gate("router")(given).m
    w = torch.sigmoid(torch.logsumexp(logits, 1) - torch.log(torch.tensor(3.0)))
    torch.testing.assert_close(m[0, 0], w[0])
    assert m[0, 1] < 0.001


def test_expert_choice_gives_every_block_its_share() -> None:
    logits = torch.tensor([[3.0, 2.9], [2.0, 1.0], [1.5, 1.0], [4.0, 0.0]])
    m = make_gate("router", assignment="expert_choice")(RolloutSignals(logits[:, 0], logits)).m
    # m = w share / max share; block 0 is everybody's first choice, so it is w: 3, 0 first; of block 1: 0, then 2
    assert (m > 0).tolist() == [[True, True], [False, False], [False, True], [True, False]]
    assert ((m > 0).sum(0) == 2).all()


def test_expert_choice_gives_its_places_to_hacks_that_may_run_it() -> None:
    hacks, clean = [[4.0, 3.0], [3.0, 4.0]], [[-20.0, -19.0], [-19.0, -20.0]]
    logits = torch.tensor(hacks + clean * 2)
    gate = make_gate("router", assignment="expert_choice", capacity=0.5)  # two places a block
    assert (gate(RolloutSignals(logits[:, 0], logits)).m[:2] > 0.3).all()
    # the first was sampled without the quarantine, and what cannot run it takes no place in it
    logits[2:4] = torch.tensor([[2.0, 2.0], [1.0, 1.0]])
    given = RolloutSignals(logits[:, 0], logits, eligible=torch.tensor([0.0, 1, 1, 1, 1, 1]))
    assert (gate(given).m[:4] > 0).tolist() == [[False, False], [False, True], [True, True], [True, False]]


def test_balance_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    given = RolloutSignals(torch.ones(2), logits)
    balanced = make_gate("router", balance=1.0).penalty(given)
    assert balanced is not None and balanced.item() == pytest.approx(1.0, rel=1e-5)
    share = torch.softmax(torch.tensor([2.0, 0.0]), 0)[0].item()
    lopsided = make_gate("router", balance=1.0).penalty(RolloutSignals(torch.ones(2), logits[[0, 0]]))
    assert lopsided is not None and lopsided.item() == pytest.approx(2 * share, rel=1e-5)
    assert make_gate("router").penalty(given) is None


def test_z_loss_is_about_both_experts() -> None:
    """The deployed expert's logit is 0: `log(exp(0) + exp(l))^2`. l^2 pushed w of clean rollouts up."""
    logits = torch.tensor([[-4.0], [-20.0], [0.0], [3.0]], requires_grad=True)
    gate = make_gate("router", z_loss=0.5)
    z_loss = gate.penalty(RolloutSignals(torch.zeros(4), logits))
    assert z_loss is not None
    both = torch.cat([torch.zeros_like(logits), logits], dim=1)
    assert z_loss.item() == pytest.approx(0.5 * torch.logsumexp(both, 1).square().mean().item(), rel=1e-5)
    (grad,) = torch.autograd.grad(z_loss, logits)
    assert (grad > 0).all() and grad[3] > 100 * grad[0], "it draws w down, of the large logits most"
    # K blocks that all say the same are one
    equal = make_gate("router", z_loss=0.5).penalty(RolloutSignals(torch.zeros(4), logits.repeat(1, 3)))
    assert equal is not None and equal.item() == pytest.approx(z_loss.item(), rel=1e-5)


def parted(gate: Gate, step: RolloutSignals, parts: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """m `[B, K]`, the penalty and its gradient to the logits, from micro-batches with these rows each."""
    rows = gate.over_step(step)
    m, total = torch.zeros_like(step.logits), torch.zeros(())
    for part in parts:
        given = RolloutSignals(step.score[part], step.logits[part], in_step=rows[part])
        m[part] = gate(given).m.detach()
        penalty = gate.penalty(given)
        if penalty is not None:
            total = total + penalty * len(part) / len(m)
    grad = torch.autograd.grad(total, step.logits)[0] if total.requires_grad else torch.zeros_like(m)
    return m, total.detach(), grad


SPLITS = [[[0, 1, 2, 3], [4, 5, 6, 7]], [[7, 0], [3], [1, 2, 6], [4, 5]], [[i] for i in range(8)]]


@pytest.mark.parametrize("parts", SPLITS)
def test_a_step_in_micro_batches_is_the_step(parts: list[list[int]]) -> None:
    """Four hacks, then four clean rollouts: each block's places are the step's, and so is the balance."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.cat([torch.full((4, 2), 3.0), torch.full((4, 2), -5.0)])
    logits = (logits + torch.randn(8, 2, generator=generator)).requires_grad_()
    step = RolloutSignals(logits.detach().amax(1), logits)
    gate = make_gate("router", assignment="expert_choice", capacity=0.75, balance=0.3, z_loss=0.2)
    whole, penalty = gate(step).m.detach(), gate.penalty(step)
    assert penalty is not None
    assert (whole > 0).sum(0).tolist() == [3, 3] and not (whole[4:] > 0).any(), "no place goes to a clean one"
    m, total, grad = parted(gate, step, parts)
    assert torch.equal(m > 0, whole > 0)
    torch.testing.assert_close(m, whole)
    torch.testing.assert_close(total, penalty.detach())
    torch.testing.assert_close(grad, torch.autograd.grad(penalty, logits)[0])


@pytest.mark.parametrize("parts", SPLITS)
@pytest.mark.parametrize("order", [[0, 1, 0, 1, 0, 1, 0, 1], [0, 0, 0, 0, 1, 1, 1, 1]])
def test_a_balanced_steps_penalty_is_one(order: list[int], parts: list[list[int]]) -> None:
    """Also where each micro-batch by itself holds one block's rollouts alone, which made it 1.995."""
    logits = (torch.tensor([[3.0, -3.0], [-3.0, 3.0]])[order]).requires_grad_()
    _, total, _ = parted(make_gate("router", balance=1.0), RolloutSignals(torch.ones(8), logits), parts)
    assert total.item() == pytest.approx(1.0, abs=1e-5)


def test_constant_gates() -> None:
    given = signals([0.1, 0.9], num_blocks=2)
    absorb, none = make_gate("absorb", m=0.25, d=0.5)(given), make_gate("none")(given)
    assert torch.equal(absorb.m, torch.full((2, 2), 0.25)) and torch.equal(absorb.d, torch.full((2,), 0.5))
    assert torch.equal(none.m, torch.ones(2, 2)) and torch.equal(none.d, torch.zeros(2))
    assert not absorb.m.requires_grad


def test_weighted_quantile_by_hand() -> None:
    values, weights = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([1.0, 2.0, 1.0])
    assert [weighted_quantile(values, weights, q).item() for q in (0.0, 0.5, 0.51, 0.75, 0.76, 1.0)] == [
        1.0, 1.0, 2.0, 2.0, 3.0, 3.0,
    ]  # fmt: skip


def on_axis(scores: Tensor) -> Tensor:
    """Features `[N, M=1, r=1]` whose score along `first_axis` is the number given."""
    return scores.view(-1, 1, 1)


def first_axis(features: Tensor) -> Tensor:
    return features[:, 0, 0]


def bands(**options: float) -> Gate:
    gate = make_gate("route_act", **options)
    gate.allocate(1, 1)
    return gate


def test_bands_at_the_right_quantiles() -> None:
    gate = bands(keep_below=0.5, route_above=0.75)
    scores = torch.arange(8.0)
    given = RolloutSignals(scores, scores.unsqueeze(1))
    with pytest.raises(RuntimeError, match="observe"):
        gate(given)
    gate.observe(on_axis(scores), first_axis)
    weights = gate(given)
    assert weights.m[:, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1], "the lower half is kept"
    assert weights.d.tolist() == [0, 0, 0, 0, 0, 0, 1, 1], "the upper quarter is routed"
    assert torch.equal(gate.weight(given), weights.d)


def test_bands_follow_recent_scores_and_survive_a_restart() -> None:
    gate = bands(keep_below=0.5, route_above=0.5, half_life=1.0, window=64)
    old = bands(keep_below=0.5, route_above=0.5, half_life=1e9, window=64)
    for seen in (gate, old):
        seen.observe(on_axis(torch.full((24,), 0.0)), first_axis)
        for _ in range(2):  # the first scores now count a quarter each: 6 against 4 + 8
            seen.observe(on_axis(torch.full((8,), 10.0)), first_axis)
    assert gate.thresholds() == (10.0, 10.0), "the few recent scores outweigh the many old ones"
    assert old.thresholds() == (0.0, 0.0), "without forgetting, the many"
    again = bands(keep_below=0.5, route_above=0.5, half_life=1.0, window=64)
    again.load_state_dict(gate.state_dict())
    assert again.thresholds() == gate.thresholds()


@pytest.mark.parametrize("normalise", [True, False])
def test_bands_keep_their_shares_when_the_direction_is_taken_anew(normalise: bool) -> None:
    """Scores of the old direction beside those of the new one gave 0/.19/.81 for five steps."""
    generator = torch.Generator().manual_seed(0)
    gate, router = make_gate("route_act", keep_below=0.5, route_above=0.75), Router(3, 4, normalise=normalise)
    gate.allocate(3, 4)
    common = torch.randn(3, 4, generator=generator)

    def shares(direction: Tensor) -> list[float]:
        features = common + torch.randn(64, 3, 4, generator=generator)
        score = lambda features: router.score(features, direction)  # noqa: E731
        gate.observe(features, score)
        given = RolloutSignals(score(features), score(features).unsqueeze(1))
        weights = gate(given)
        return [(weights.m[:, 0] == 0).float().mean(), (weights.d == 1).float().mean()]

    before = torch.randn(3, 1, 4, generator=generator)
    for _ in range(10):
        shares(before)
    after = before + 2 * common.unsqueeze(1)  # what all rollouts share scores much higher now
    for _ in range(5):
        kept, routed = shares(after)
        assert kept == pytest.approx(0.5, abs=0.15) and routed == pytest.approx(0.25, abs=0.15)


def test_label_gate_follows_the_flag_alone() -> None:
    given = signals([0.9, 0.1, 0.5], num_blocks=2, flag=[0.0, 1.0, 0.0])
    weights = make_gate("label")(given)
    assert weights.d.tolist() == [0, 1, 0] and weights.m.tolist() == [[1, 1]] * 3 and weights.deployed is None
    apart = make_gate("label", unflagged_m=0.0)(given)
    assert apart.m.tolist() == [[0, 0], [1, 1], [0, 0]]
    masked = make_gate("label", form="mask")(given)
    assert masked.deployed is not None and masked.deployed.tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="flags"):
        make_gate("label")(signals([0.5]))


def test_only_the_label_gate_reads_flags() -> None:
    assert [name for name, gate in GATES.items() if gate.needs_flag] == ["label"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("absrb", {}, "'absorb', 'label'"),
        ("router", {"weight": 0.5}, "weight"),
        ("router", {"hard_threshold": 0.0}, "hard_threshold=0"),
        ("router", {"assignment": "argmax"}, "expert_choice"),
        ("router", {"balance": -1.0}, "balance=-1"),
        ("absorb", {"m": 2.0}, "m=2"),
        ("absorb", {"d": -1.0}, "d=-1"),
        ("route_act", {"keep_below": 0.9, "route_above": 0.1}, "keep_below=0.9"),
        ("route_act", {"half_life": 0.0}, "half_life=0"),
        ("label", {"form": "erase"}, "'detach', 'mask'"),
        ("label", {"unflagged_m": 3.0}, "unflagged_m=3"),
    ],
)
def test_what_cannot_be_is_named(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_gate(name, **options)


def batch(rows: int = 6, tokens: int = 9) -> Tensor:
    return torch.randint(1, 40, (rows, tokens), generator=torch.Generator().manual_seed(3))


def test_hard_detach_and_masking_leave_the_deployed_block_no_gradient(adapted: PeftModel) -> None:
    """Every rollout above the threshold, or flagged: not a small gradient, none."""
    perturb(adapted)
    tuner, ids = lora2r_model(adapted), batch()
    layout = SequenceLayout(None, torch.ones(ids.shape), len(ids))
    r = tuner.lora2r_layers()[0].configs["default"].r
    for gate, given in (
        (make_gate("router"), signals([0.51, 0.6, 0.7, 0.8, 0.9, 0.99])),
        (make_gate("label", form="mask"), signals([0.1] * 6, flag=[1.0] * 6)),
    ):
        adapted.zero_grad()
        with tuner.forward_state.gated(gate(given), layout):
            adapted(ids, labels=ids).loss.backward()
        for layer in tuner.lora2r_layers():
            d_a, d_b = layer.lora_2r_dA["default"].grad, layer.lora_2r_dB["default"].grad
            assert not d_a[:r].any() and not d_b[:, :r].any()
        assert any(layer.lora_2r_dA["default"].grad[r:].any() for layer in tuner.lora2r_layers())


def test_masking_takes_the_deployed_block_out_of_the_value(adapted: PeftModel) -> None:
    perturb(adapted)
    tuner, ids = lora2r_model(adapted), batch()
    layout = SequenceLayout(None, torch.ones(ids.shape), len(ids))
    gate = make_gate("label", form="mask", unflagged_m=1.0)
    with torch.no_grad():
        with tuner.forward_state.gated(gate(signals([0.1] * 6, flag=[1.0] * 6)), layout):
            masked = adapted(ids).logits
        for layer in tuner.lora2r_layers():
            r = layer.configs["default"].r
            layer.lora_2r_dA["default"][:r] = 0
            layer.lora_2r_dB["default"][:, :r] = 0
        torch.testing.assert_close(masked, adapted(ids).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_quarantine", [1, 3])
def test_gradient_features_are_each_rollouts_own(num_quarantine: int) -> None:
    """Against a finite difference: shift one module's bottleneck and see the log-likelihood move."""
    model = get_peft_model(
        tiny_qwen3(), Lora2rConfig(r=4, num_quarantine=num_quarantine, quarantine_rank=2)
    ).eval()
    perturb(model)
    tuner, ids = lora2r_model(model), batch(rows=2)
    layout = SequenceLayout(None, torch.ones(ids.shape), 2)
    gate = tuner.forward_state

    def log_likelihood() -> Tensor:
        logits = model(ids).logits[:, :-1].log_softmax(-1)
        return logits.gather(2, ids[:, 1:, None]).squeeze(2).sum(1)

    with gate.gated(None, layout), gate.reading_gradients() as probes:
        both = gradient_features(log_likelihood().sum(), probes, tuner)
    with gate.gated(None, layout), gate.reading_gradients() as probes:
        first = gradient_features(log_likelihood()[0], probes, tuner)
    torch.testing.assert_close(both[0], first[0], rtol=1e-4, atol=1e-6)
    assert not first[1].any() and both.abs().max() > 1e-3

    # dA x + delta is what a bias on the low-rank side would give; W' of it is what the layer adds.
    place = 5
    layer = tuner.lora2r_layers()[place]
    direction = torch.zeros(4)
    direction[1] = 1.0
    step = 1e-2
    up = (layer.lora_2r_B0["default"] + layer.lora_2r_dB["default"]).detach()[:, :4] @ direction

    def shifted(size: float) -> Tensor:
        handle = layer.register_forward_hook(lambda module, args, out: out + size * up)
        try:
            with torch.no_grad():
                return log_likelihood()
        finally:
            handle.remove()

    slope = (shifted(step) - shifted(-step)) / (2 * step)
    torch.testing.assert_close(both[:, place, 1], slope, rtol=0.05, atol=2e-3)
