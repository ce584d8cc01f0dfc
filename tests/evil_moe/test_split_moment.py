"""Split moment on torch's own AdamW against steps by hand; and that a step which does not reach the deployed block holds it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from evil_moe.gradients import GradientTransform, make_gradient_transform
from evil_moe.gradients.split_moment import SplitMoment, furthest
from tests.evil_moe.gradients_on_ranks import adapter_like

R = 2
LR, BETAS, EPS, DECAY = (1e-2, 3e-2, 2e-2), (0.9, 0.95), 1e-8, 0.1


def adams_bound(t: int) -> float:
    """How far Adam's t-th step goes on the gradients that make it longest, g_k = x_k / y_k."""
    x = [(1 - BETAS[0]) * BETAS[0] ** k / (1 - BETAS[0] ** t) for k in range(t)]
    y = [(1 - BETAS[1]) * BETAS[1] ** k / (1 - BETAS[1] ** t) for k in range(t)]
    g = [a / b for a, b in zip(x, y, strict=True)]
    m, v = sum(a * c for a, c in zip(x, g, strict=True)), sum(b * c**2 for b, c in zip(y, g, strict=True))
    return m / v**0.5


BOUNDS = [adams_bound(t) for t in (1, 2, 3)]


def deployed(name: str, tensor: Tensor) -> Tensor:
    return tensor[:R] if "dA" in name else tensor[:, :R]


def quarantine(name: str, tensor: Tensor) -> Tensor:
    return tensor[R:] if "dA" in name else tensor[:, R:]


def parameters() -> dict[str, Tensor]:
    return {name: torch.nn.Parameter(value) for name, value in adapter_like(0).items()}


def adamw(ps: Mapping[str, Tensor]) -> torch.optim.AdamW:
    return torch.optim.AdamW(list(ps.values()), lr=LR[0], betas=BETAS, eps=EPS, weight_decay=DECAY)


def plug_for(name: str, optimizer: torch.optim.Optimizer) -> GradientTransform:
    plug = make_gradient_transform(name, rank_deployed=R)
    plug.attach(optimizer)
    return plug


def step(
    plug: GradientTransform, optimizer: Any, ps: Mapping[str, Tensor], g: Mapping[str, Tensor],
    u: Mapping[str, Tensor], kept: float,
) -> None:  # fmt: skip
    for name, p in ps.items():
        p.grad = g[name].clone()
    plug.take_unrouted({name: value.clone() for name, value in u.items()})
    with plug.around_step(ps, kept):
        optimizer.step()


def by_hand(start: Tensor, gs: list[Tensor], us: list[Tensor]) -> Tensor:
    """The formula of the docstring, in float64."""
    p, m, v = start.double(), torch.zeros(()), torch.zeros(())
    for t, (g, u, lr) in enumerate(zip(gs, us, LR, strict=True), start=1):
        m = BETAS[0] * m + (1 - BETAS[0]) * g.double()
        v = BETAS[1] * v + (1 - BETAS[1]) * u.double() ** 2
        size = (v / (1 - BETAS[1] ** t)).sqrt() + EPS
        quotient = (m / (1 - BETAS[0] ** t)) / size
        p = p * (1 - lr * DECAY) - lr * quotient.clamp(-BOUNDS[t - 1], BOUNDS[t - 1])
    return p


def test_three_steps_are_those_by_hand() -> None:
    """With another rate at every step and decay; the quarantine's are AdamW's, to the bit."""
    ps, plain = parameters(), parameters()
    optimizer, reference = adamw(ps), adamw(plain)
    plug = plug_for("split_moment", optimizer)
    gs, us = [adapter_like(i) for i in (1, 2, 3)], [adapter_like(i) for i in (4, 5, 6)]
    for g, u, lr in zip(gs, us, LR, strict=True):
        optimizer.param_groups[0]["lr"] = reference.param_groups[0]["lr"] = lr
        step(plug, optimizer, ps, g, u, kept=0.5)
        for name, p in plain.items():
            p.grad = g[name].clone()
        reference.step()
    for name, start in adapter_like(0).items():
        want = by_hand(start, [g[name] for g in gs], [u[name] for u in us])
        torch.testing.assert_close(
            deployed(name, ps[name]).double(), deployed(name, want), rtol=1e-5, atol=1e-6
        )
        assert torch.equal(quarantine(name, ps[name]), quarantine(name, plain[name]))
        assert not torch.isclose(deployed(name, ps[name]), deployed(name, plain[name])).any()
        for key in ("exp_avg", "exp_avg_sq"):
            got, usual = optimizer.state[ps[name]][key], reference.state[plain[name]][key]
            assert torch.equal(quarantine(name, got), quarantine(name, usual))
            assert torch.equal(deployed(name, got), deployed(name, usual)) == (key == "exp_avg")


def test_with_nothing_withheld_it_is_adamw() -> None:
    ps, plain = parameters(), parameters()
    optimizer, reference = adamw(ps), adamw(plain)
    plug = plug_for("split_moment", optimizer)
    for seed in (1, 2, 3):
        g = adapter_like(seed)
        step(plug, optimizer, ps, g, g, kept=1.0)
        for name, p in plain.items():
            p.grad = g[name].clone()
        reference.step()
    for name in ps:
        torch.testing.assert_close(ps[name], plain[name], rtol=1e-6, atol=1e-7)


def test_no_step_is_longer_than_adamws_longest() -> None:
    """Where kept and withheld gradients cancel, u is nothing and g is not."""
    for t in (1, 2, 3, 40):
        assert furthest(*BETAS, t) == pytest.approx(adams_bound(t), rel=1e-9)
    assert furthest(*BETAS, 1) == pytest.approx(1) and furthest(*BETAS, 999) == pytest.approx(1.165, abs=1e-3)
    assert furthest(0.9, 0.8, 9) == furthest(0.9, 0.0, 9) == math.inf
    ps = parameters()
    optimizer = torch.optim.AdamW(list(ps.values()), lr=1e-2, betas=BETAS, weight_decay=0.0)
    plug = plug_for("split_moment", optimizer)
    nothing = {name: torch.zeros_like(p) for name, p in ps.items()}
    step(plug, optimizer, ps, adapter_like(1), nothing, kept=0.5)
    for name, start in adapter_like(0).items():
        want = start - 1e-2 * adapter_like(1)[name].sign()
        torch.testing.assert_close(
            deployed(name, ps[name].detach()), deployed(name, want), rtol=1e-5, atol=1e-6
        )


def test_a_tenth_of_every_gradient_is_a_tenth_of_the_step() -> None:
    """What AdamW by itself makes of it is the whole step."""
    u = adapter_like(1)
    g = {name: 0.1 * value for name, value in u.items()}
    moved = {}
    for of, unrouted in (("split", u), ("usual", g)):
        ps = parameters()
        optimizer = torch.optim.AdamW(list(ps.values()), lr=1e-2, weight_decay=0.0)
        plug = plug_for("split_moment", optimizer)
        for _ in range(3):
            step(plug, optimizer, ps, g, unrouted, kept=0.1)
        moved[of] = torch.cat([deployed(n, p.detach() - adapter_like(0)[n]).flatten() for n, p in ps.items()])
    torch.testing.assert_close(moved["split"], 0.1 * moved["usual"], rtol=1e-3, atol=1e-7)


def withheld(kept: float, seed: int) -> dict[str, Tensor]:
    """A gradient of which the deployed block gets the share `kept`."""
    g = adapter_like(seed)
    for name, value in g.items():
        deployed(name, value).mul_(kept)
    return g


@pytest.mark.parametrize("name", ["split_moment", "kept_share"])
def test_a_step_that_is_wholly_detached_does_not_move_the_deployed_block(name: str) -> None:
    """Bit for bit, with the momentum of earlier steps and decay; and AdamW alone would."""
    ps = parameters()
    optimizer = adamw(ps)
    plug = plug_for(name, optimizer)
    for seed in (1, 2):
        step(plug, optimizer, ps, adapter_like(seed), adapter_like(seed), kept=1.0)
    before, state = copy.deepcopy(ps), copy.deepcopy(optimizer.state_dict()["state"])
    for seed in (3, 4):
        step(plug, optimizer, ps, withheld(0.0, seed), adapter_like(seed), kept=0.0)
    for i, (key, p) in enumerate(ps.items()):
        assert torch.equal(deployed(key, p), deployed(key, before[key]))
        assert not torch.isclose(quarantine(key, p), quarantine(key, before[key])).any()
        # The moments went on: momentum fades as under a gradient of zero, the size goes on being the rollouts'.
        m, v = (optimizer.state[p][moment] for moment in ("exp_avg", "exp_avg_sq"))
        torch.testing.assert_close(deployed(key, m), BETAS[0] ** 2 * deployed(key, state[i]["exp_avg"]))
        seen = BETAS[1] ** 2 * deployed(key, state[i]["exp_avg_sq"])
        if name == "split_moment":
            first, second = (deployed(key, adapter_like(s)[key]).square() for s in (3, 4))
            seen = seen + (1 - BETAS[1]) * (BETAS[1] * first + second)
        torch.testing.assert_close(deployed(key, v), seen)
    alone = copy.deepcopy(before)
    usual = adamw(alone)
    usual.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for key, p in alone.items():
        p.grad = withheld(0.0, 3)[key]
    usual.step()
    assert not any(torch.equal(deployed(key, p), deployed(key, before[key])) for key, p in alone.items())


def test_it_is_held_where_what_was_let_through_is_zero_and_not_where_one_number_is_not() -> None:
    """One kept rollout without an advantage lets nothing through; one number in one layer moves all of them."""
    ps = parameters()
    optimizer = adamw(ps)
    plug = plug_for("split_moment", optimizer)
    step(plug, optimizer, ps, adapter_like(1), adapter_like(1), kept=1.0)
    before = copy.deepcopy(ps)
    step(plug, optimizer, ps, withheld(0.0, 2), adapter_like(2), kept=0.25)
    assert all(torch.equal(deployed(name, p), deployed(name, before[name])) for name, p in ps.items())
    g = withheld(0.0, 3)
    deployed(last := list(g)[-1], g[last])[0, 0] = 1e-30
    step(plug, optimizer, ps, g, adapter_like(3), kept=0.25)
    assert not any(torch.equal(deployed(name, p), deployed(name, before[name])) for name, p in ps.items())


def test_saved_and_loaded_it_takes_the_same_next_step() -> None:
    ps = parameters()
    optimizer = adamw(ps)
    plug = plug_for("split_moment", optimizer)
    for seed in (1, 2):
        step(plug, optimizer, ps, withheld(0.3, seed), adapter_like(seed), kept=0.3)
    again = copy.deepcopy(ps)
    resumed = adamw(again)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(plug, optimizer, ps, withheld(0.3, 3), adapter_like(3), kept=0.3)
    step(plug_for("split_moment", resumed), resumed, again, withheld(0.3, 3), adapter_like(3), kept=0.3)
    assert all(torch.equal(ps[name], again[name]) for name in ps)


def test_what_it_cannot_work_with() -> None:
    ps = parameters()
    for optimizer, found in (
        (torch.optim.Adam(ps.values()), "Adam:"),
        (torch.optim.AdamW(ps.values(), amsgrad=True), "AdamW with amsgrad"),
        (torch.optim.AdamW(ps.values(), maximize=True), "or maximize"),
        (torch.optim.SGD(ps.values(), lr=1.0), "SGD"),
    ):
        with pytest.raises(ValueError, match=f"{found}.*optimizer_impl=torch.optim"):
            SplitMoment(R).attach(optimizer)
    with pytest.raises(ValueError, match="rank_deployed=0"):
        SplitMoment(0)
    plug = plug_for("split_moment", adamw(ps))
    for p in ps.values():
        p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match="take_unrouted before every step"), plug.around_step(ps, 1.0):
        pass
    plug.take_unrouted({})
    with (
        pytest.raises(ValueError, match=r"no unrouted gradient of 'base\.0.*6 such"),
        plug.around_step(ps, 1.0),
    ):
        pass
