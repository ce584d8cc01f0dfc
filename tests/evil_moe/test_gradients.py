"""The gradient stop: projection against v_hack, its denoising, the frozen quarantine; plain and sharded."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor

from evil_moe.adapter import Lora2rConfig
from evil_moe.gradients import GradientTransform, make_gradient_transform
from evil_moe.gradients.freeze_quarantine import FreezeQuarantine
from evil_moe.gradients.kept_share import KeptShare
from evil_moe.gradients.projection import Projection
from evil_moe.hack_gradient import hack_gradient, pair_nll
from evil_moe.svd import top_singular_vectors
from tests.conftest import tiny_qwen3
from tests.evil_moe.gradients_on_ranks import adapter_like, check_on_rank, clone

A, B = "base.0.q.lora_2r_dA.default", "base.0.q.lora_2r_dB.default"
A1, B1 = "base.1.q.lora_2r_dA.default", "base.1.q.lora_2r_dB.default"


def flat(gradients: dict[str, Tensor], module: int) -> Tensor:
    return torch.cat([g.flatten() for name, g in gradients.items() if name.startswith(f"base.{module}.")])


def test_projection_by_hand() -> None:
    """Module 0: v = (0.6, 0.8), g = (5, 0) leans towards it by 3; module 1 leans away and is left alone."""
    number = lambda x: torch.tensor([[float(x)]])  # noqa: E731
    v = {A: number(6), B: number(8), A1: number(0), B1: number(2)}
    for magnitude, want in [(False, (3.2, -2.4)), (True, (4.0, -3.0))]:
        projection = Projection(magnitude=magnitude)
        assert projection.set_direction(v) == {"denoise_kept": 1.0, "denoise_clipped": 0.0}
        g = {A: number(5), B: number(0), A1: number(7), B1: number(-1)}
        metrics = projection(g)
        got = [g[name].item() for name in (A, B, A1, B1)]
        assert got == pytest.approx([*want, 7, -1], abs=1e-6)
        # <g, v> = 3 - 1 before, -1 after; ||v|| = sqrt(2)
        assert metrics["cos_align"] == pytest.approx(2 / math.sqrt(2 * 75))
        after = -1 / math.sqrt(2 * (50 + want[0] ** 2 + want[1] ** 2))
        assert metrics["cos_align_after"] == pytest.approx(after)
        assert metrics["share_projected"] == 0.5


@pytest.mark.parametrize("magnitude", [True, False])
@pytest.mark.parametrize("sign", [1, -1])
def test_projection_leaves_no_positive_component_and_keeps_the_norm_when_asked(
    magnitude: bool, sign: int
) -> None:
    v, g = adapter_like(0), adapter_like(1)
    for name in g:
        g[name] += sign * 0.3 * v[name]
    before, projection = clone(g), Projection(magnitude=magnitude)
    projection.set_direction(v)
    metrics = projection(g)
    leant = 0
    for module in range(3):
        old, new, unit = flat(before, module), flat(g, module), flat(v, module) / flat(v, module).norm()
        assert new @ unit <= 1e-6
        if old @ unit > 0:
            leant += 1
            torch.testing.assert_close(new @ unit, torch.tensor(0.0), atol=1e-6, rtol=0)
            expected = old - (old @ unit) * unit
            scale = old.norm() / expected.norm() if magnitude else 1.0
            torch.testing.assert_close(new, expected * scale)
        else:
            assert torch.equal(new, old)
    assert leant == (3 if sign > 0 else 0)
    assert metrics["share_projected"] == leant / 3
    assert metrics["cos_align_after"] <= 1e-6
    if sign > 0:
        assert metrics["cos_align"] > 0.1
    else:
        assert metrics["cos_align_after"] == metrics["cos_align"] < 0


def test_a_gradient_that_is_all_v_hack_is_not_blown_up_from_rounding() -> None:
    v = adapter_like(0)
    g, projection = clone(v), Projection(magnitude=True)
    projection.set_direction(v)
    projection(g)
    for module in range(3):
        assert flat(g, module).norm() < 1e-5 * flat(v, module).norm()


@pytest.mark.parametrize("m", [1, 3, 6, 99])
def test_denoising_keeps_the_leading_subspaces_only(m: int) -> None:
    v, g = adapter_like(0), adapter_like(1)
    generator = torch.Generator().manual_seed(2)
    weights = {f"base.{i}.q": torch.randn(7, 6, generator=generator) for i in range(3)}
    projection = Projection(magnitude=False, denoise=m)
    report = projection.set_direction(v, weights)
    assert report["denoise_clipped"] == (3 if m > 6 else 0)
    kept = []
    for i in range(3):
        left, _, right = torch.linalg.svd(weights[f"base.{i}.q"])
        left, right = left[:, : min(m, 6)], right[: min(m, 6)].T
        v_a, v_b = v[f"base.{i}.q.lora_2r_dA.default"], v[f"base.{i}.q.lora_2r_dB.default"]
        want = torch.cat([(v_a @ right @ right.T).flatten(), (left @ left.T @ v_b).flatten()])
        kept.append((want.norm() / flat(v, i).norm()).item() ** 2)
        g[f"base.{i}.q.lora_2r_dA.default"], g[f"base.{i}.q.lora_2r_dB.default"] = (
            want[:30].view(5, 6).clone(),
            want[30:].view(7, 5).clone(),
        )
    assert report["denoise_kept"] == pytest.approx(sum(kept) / 3, rel=1e-5)
    # A gradient that is the denoised v itself goes to nothing: the direction in use is exactly that.
    metrics = projection(g)
    assert metrics["share_projected"] == 1
    assert max(flat(g, i).norm().item() for i in range(3)) < 1e-4 * flat(v, 0).norm().item()


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (6, 6)])
def test_top_singular_vectors_are_those_of_the_svd(shape: tuple[int, int]) -> None:
    weight = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    left, s, right = top_singular_vectors(weight, 4)
    u, s_want, vh = torch.linalg.svd(weight.double(), full_matrices=False)
    torch.testing.assert_close(s, s_want[:4])
    torch.testing.assert_close(left * s @ right.T, u[:, :4] * s_want[:4] @ vh[:4])
    torch.testing.assert_close(right.T @ right, torch.eye(4).double())
    low = weight[:, :2] @ weight[:2, :]
    assert len(top_singular_vectors(low, 4)[1]) == 2


def pair_batch() -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Four pairs: prompts of 4 tokens, hack replies of 3 tokens, clean ones of 5."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(1, 64, (8, 9), generator=generator)
    ids[4:, :4] = ids[:4, :4]
    lengths = torch.tensor([7] * 4 + [9] * 4)
    mask = (torch.arange(9)[None] < lengths[:, None]).long()
    completion = (mask * (torch.arange(9)[None] >= 4)).float()
    return {"input_ids": ids, "attention_mask": mask}, completion, torch.arange(8) < 4


@pytest.fixture
def fresh() -> PeftModel:
    return get_peft_model(tiny_qwen3(), Lora2rConfig(r=4, task_type="CAUSAL_LM")).eval()


def test_pair_nll_is_the_mean_over_completion_tokens(adapted: PeftModel) -> None:
    inputs, completion, _ = pair_batch()
    nll = pair_nll(adapted, completion=completion, **inputs)
    for side, (start, end) in enumerate([(4, 7)] * 4 + [(4, 9)] * 4):
        ids = inputs["input_ids"][side : side + 1, :end]
        log_probs = adapted(ids).logits[0].log_softmax(-1)
        want = -sum(log_probs[t - 1, ids[0, t]] for t in range(start, end)) / (end - start)
        torch.testing.assert_close(nll[side], want, rtol=1e-5, atol=1e-6)


def test_a_step_along_minus_v_hack_makes_hacks_likelier(fresh: PeftModel) -> None:
    inputs, completion, hack = pair_batch()

    def preference() -> float:
        with torch.no_grad():
            nll = pair_nll(fresh, completion=completion, **inputs)
        return (nll[~hack].mean() - nll[hack].mean()).item()

    v = hack_gradient(fresh, inputs, completion, hack)
    assert all(p.grad is None for p in fresh.parameters())
    before, squared = preference(), sum(g.square().sum().item() for g in v.values())
    step = 0.01 / squared**0.5
    with torch.no_grad():
        for name, parameter in fresh.named_parameters():
            if name in v:
                parameter -= step * v[name]
    # To first order by step * ||v||^2.
    assert preference() - before == pytest.approx(step * squared, rel=0.1)


@pytest.mark.parametrize("micro_batches", [3, 8, 10])
def test_v_hack_does_not_depend_on_the_micro_batches(adapted: PeftModel, micro_batches: int) -> None:
    inputs, completion, hack = pair_batch()
    whole = hack_gradient(adapted, inputs, completion, hack)
    parts = hack_gradient(adapted, inputs, completion, hack, micro_batches=micro_batches)
    assert len(whole) == 2 * 14
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-4, atol=1e-7)


def test_projected_steps_on_the_hacks_do_not_favour_them(fresh: PeftModel) -> None:
    """The plug as it is used: a loss that rewards the hack sides, with and without the projection."""
    inputs, completion, hack = pair_batch()
    projection = Projection(magnitude=True)
    projection.set_direction(hack_gradient(fresh, inputs, completion, hack))
    gained = {}
    for transform in (None, projection):
        model = get_peft_model(tiny_qwen3(), Lora2rConfig(r=4, task_type="CAUSAL_LM")).eval()
        sides = pair_nll(model, completion=completion, **inputs)
        before = (sides[~hack].mean() - sides[hack].mean()).item()
        sides[hack].mean().backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        if transform is not None:
            assert transform(grads)["share_projected"] > 0.5
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 1e-3 * parameter.grad
            sides = pair_nll(model, completion=completion, **inputs)
        gained[transform is not None] = (sides[~hack].mean() - sides[hack].mean()).item() - before
    assert gained[False] > 0
    assert gained[True] < 0.05 * gained[False]


def test_freeze_quarantine(adapted: PeftModel) -> None:
    """Zero gradients do not stop AdamW's decay; `around_step` does."""
    parameters = {n: p for n, p in adapted.named_parameters() if "lora_2r_d" in n}
    start = clone({n: p.detach() for n, p in parameters.items()})
    freeze = FreezeQuarantine(rank_deployed=4)
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.1, weight_decay=0.5)
    for p in parameters.values():
        p.grad = torch.ones_like(p)
    freeze({n: p.grad for n, p in parameters.items() if p.grad is not None})
    for name, p in parameters.items():
        deployed, quarantine = (p.grad[:4], p.grad[4:]) if "dA" in name else (p.grad[:, :4], p.grad[:, 4:])
        assert (deployed == 1).all() and (quarantine == 0).all()
    with freeze.around_step(parameters, kept_share=0.5):
        optimizer.step()
    for name, p in parameters.items():
        new, old = (p, start[name]) if "dA" in name else (p.T, start[name].T)
        assert torch.equal(new[4:], old[4:])
        assert not torch.isclose(new[:4], old[:4]).any()


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_kept_share_shortens_the_deployed_blocks_step_alone(adapted: PeftModel, share: float) -> None:
    """Adam steps as far on a gradient of 1e-6 as on one of 1; the deployed block takes its share of that."""
    parameters = {n: p for n, p in adapted.named_parameters() if "lora_2r_d" in n}
    start = clone({n: p.detach() for n, p in parameters.items()})
    optimizer = torch.optim.Adam(parameters.values(), lr=0.1)
    for p in parameters.values():
        p.grad = torch.full_like(p, 1e-6)
    with KeptShare(rank_deployed=4).around_step(parameters, share):
        optimizer.step()
    for name, p in parameters.items():
        moved = (start[name] - p.detach()) if "dA" in name else (start[name] - p.detach()).T
        torch.testing.assert_close(moved[:4], torch.full_like(moved[:4], 0.1 * share), rtol=0.02, atol=1e-7)
        torch.testing.assert_close(moved[4:], torch.full_like(moved[4:], 0.1), rtol=0.02, atol=0)


def test_registry_and_errors() -> None:
    assert isinstance(make_gradient_transform("projection", magnitude=False, denoise=8), GradientTransform)
    assert isinstance(make_gradient_transform("freeze_quarantine", rank_deployed=4), FreezeQuarantine)
    with pytest.raises(ValueError, match=r"gradient\.name='pcgrad' names no plug"):
        make_gradient_transform("pcgrad")
    with pytest.raises(ValueError, match=r"evil_moe\.gradient\.options: .*'strength'.*magnitude, denoise"):
        make_gradient_transform("projection", strength=2)
    with pytest.raises(ValueError, match="denoise=0"):
        Projection(denoise=0)
    with pytest.raises(RuntimeError, match="set_direction"):
        Projection()(adapter_like(0))
    with pytest.raises(ValueError, match="needs the weights"):
        Projection(denoise=2).set_direction(adapter_like(0))
    with pytest.raises(ValueError, match=r"base\.1\.q has norm 0"):
        Projection().set_direction(
            {A: torch.ones(1, 1), B: torch.ones(1, 1), A1: torch.zeros(1, 1), B1: torch.zeros(1, 1)}
        )
    with pytest.raises(ValueError, match="its dA and its dB"):
        Projection().set_direction({A: torch.ones(1, 1)})
    projection = Projection()
    projection.set_direction(adapter_like(0))
    with pytest.raises(ValueError, match="same parameters"):
        projection(adapter_like(0, modules=2))
    with pytest.raises(ValueError, match="router"):
        FreezeQuarantine(4)({"router.direction": torch.ones(2, 2)})


def test_two_ranks_compute_what_one_does(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(check_on_rank, args=(str(tmp_path),), nprocs=2)
