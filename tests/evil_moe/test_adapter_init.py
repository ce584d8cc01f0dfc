"""Adapter inits: the model's function and the scale stay; the seeds go where they should."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor

from evil_moe.adapter import Lora2rConfig, Lora2rModel, lora2r_model
from evil_moe.adapter.init import (
    INITS,
    InputCovariance,
    contrast_components,
    initialise,
    input_covariances,
    pissa,
)
from evil_moe.adapter.layer import base_weight
from tests.conftest import perturb, tiny_qwen3

S, T = 6, 9
IDS = torch.randint(1, 64, (S, T), generator=torch.Generator().manual_seed(5))
HACK = torch.arange(S) < S // 2
COMPLETION = (torch.arange(T) >= 3).float() * torch.ones(S, 1)
COMPLETION[1, 7:] = 0


def fresh(num_quarantine: int = 1) -> PeftModel:
    config = Lora2rConfig(r=3, num_quarantine=num_quarantine, quarantine_rank=2, task_type="CAUSAL_LM")
    return get_peft_model(tiny_qwen3(), config).eval()


def read_covariances(model: PeftModel, **options: object) -> dict[str, InputCovariance]:
    return input_covariances(lora2r_model(model), lambda: model(IDS), COMPLETION, HACK, **options)  # type: ignore[arg-type]


def inits_of(tuner: Lora2rModel) -> list[tuple[Tensor, Tensor]]:
    return [(y.lora_2r_A0["default"].clone(), y.lora_2r_B0["default"].clone()) for y in tuner.lora2r_layers()]


@pytest.mark.parametrize("name", INITS)
@pytest.mark.parametrize("num_quarantine", [1, 2])
def test_every_init_keeps_function_and_scale(name: str, num_quarantine: int) -> None:
    model = fresh(num_quarantine)
    tuner, total = lora2r_model(model), 3 + 2 * num_quarantine
    before = inits_of(tuner)
    initialise(tuner, name, covariances=read_covariances(model))
    assert torch.equal(model(IDS).logits, tiny_qwen3()(IDS).logits)
    for layer, old, (a0, b0) in zip(tuner.lora2r_layers(), before, inits_of(tuner), strict=True):
        changed = [not torch.equal(a0, old[0]), not torch.equal(b0, old[1])]
        assert changed == [name != "gaussian"] * 2
        if name != "gaussian":
            d_out = layer.out_features
            assert a0.square().sum(1).mean() == pytest.approx(1, rel=1e-5)
            assert b0.square().sum(0).mean() == pytest.approx(d_out / total, rel=1e-5)
            assert torch.linalg.matrix_rank(a0) == torch.linalg.matrix_rank(b0) == total


def test_pissa_holds_the_largest_components_dealt_over_the_blocks() -> None:
    weight = torch.randn(7, 9, generator=torch.Generator().manual_seed(0))
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    a0, b0 = pissa(weight, Lora2rConfig(r=2, num_quarantine=2, quarantine_rank=1))
    # W's four largest components, up to one factor for all of them
    factor = math.sqrt(7 / 4) / s[:4].mean()
    torch.testing.assert_close((b0 @ a0).float(), factor * u[:, :4] * s[:4] @ vh[:4])
    # deployed 0 gets the first, the quarantines the next two, deployed 1 the last
    for rank, component in [(0, 0), (2, 1), (3, 2), (1, 3)]:
        assert abs(a0[rank].float() @ vh[component]) == pytest.approx(a0[rank].norm().item(), rel=1e-5)
    assert a0[0].norm() / a0[1].norm() == pytest.approx((s[0] / s[3]).sqrt().item(), rel=1e-5)


def covariance(seed: int, tokens: int, scale: Tensor) -> Tensor:
    x = torch.randn(tokens, len(scale), generator=torch.Generator().manual_seed(seed)).double() * scale
    return x.T @ x / tokens


@pytest.mark.parametrize("tokens", [40, 4])
def test_contrast_components_decompose_weight_and_energy(tokens: int) -> None:
    """Exact also where both covariances are singular (4 tokens of width 8)."""
    weight = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    both = InputCovariance(
        hack=covariance(1, tokens, torch.linspace(2, 0.5, 8)), clean=covariance(2, tokens, torch.ones(8))
    )
    found = contrast_components(weight, both, epsilon=0.01)
    w, mean = weight.double(), (both.hack + both.clean) / 2
    metric = mean + 0.01 * mean.trace() / 8 * torch.eye(8)
    torch.testing.assert_close(found.write @ found.read.T, w)
    torch.testing.assert_close(found.read.T @ metric @ found.read, torch.eye(8).double(), atol=1e-8, rtol=0)
    torch.testing.assert_close(found.score.sum(), (w @ (both.hack - both.clean) @ w.T).trace())
    assert (found.score.diff() <= 0).all() and found.score[0] > 0 > found.score[-1]
    swapped = contrast_components(weight, InputCovariance(both.clean, both.hack), epsilon=0.01)
    torch.testing.assert_close(swapped.score, -found.score.flip(0))


def axis_of(row: Tensor) -> int:
    """The axis that a unit row points along."""
    axis = int(row.abs().argmax())
    assert abs(row[axis]) == pytest.approx(1, abs=1e-4)
    return axis


@pytest.mark.parametrize(
    ("name", "deployed", "quarantine"),
    [
        # energy differences by axis: +8, +3, +1, 0, -0.5, -0.9 times |W e_i|^2 = 1, 1, 1, 1, 1, 4
        ("signed_corda", [5, 4], [0, 1]),
        ("reversed_corda", [0, 1], [5, 4]),
        ("corda", [0, 1], [5, 2]),
    ],
)
def test_corda_seeds_by_hand(name: str, deployed: list[int], quarantine: list[int]) -> None:
    linear = torch.nn.Linear(6, 6, bias=False)
    gain = torch.tensor([1.0, 1, 1, 1, 1, 2])
    with torch.no_grad():
        linear.weight.copy_(torch.diag(gain))
    model = get_peft_model(torch.nn.Sequential(linear), Lora2rConfig(r=2, target_modules=["0"]))
    hack = torch.diag(torch.tensor([9, 4, 2, 1, 0.5, 0.1]))
    initialise(
        lora2r_model(model), name, covariances={"0": InputCovariance(hack, torch.eye(6))}, epsilon=1e-6
    )
    ((a0, b0),) = inits_of(lora2r_model(model))
    assert [axis_of(row) for row in a0] == deployed + quarantine
    assert [axis_of(column / math.sqrt(6 / 4)) for column in b0.T] == deployed + quarantine


def test_covariances_are_those_of_the_completion_tokens() -> None:
    model = fresh()
    perturb(model)
    tuner = lora2r_model(model)
    layer, seen = tuner.lora2r_layers()[9], []
    handle = layer.base_layer.register_forward_hook(lambda _m, args, _out: seen.append(args[0].detach()))
    found = read_covariances(model)
    handle.remove()
    assert list(found) == [y.module_name for y in tuner.lora2r_layers()]
    for side, got in ((HACK, found[layer.module_name].hack), (~HACK, found[layer.module_name].clean)):
        tokens = [seen[0][s, t] for s in range(S) for t in range(T) if side[s] and COMPLETION[s, t]]
        torch.testing.assert_close(got, sum(torch.outer(x, x) for x in tokens) / len(tokens))
    part = read_covariances(model, modules=[layer.module_name])
    assert list(part) == [layer.module_name]


def test_two_ranks_share_the_sides() -> None:
    """Each of two calls reads every other side; with the other's sums added, both have the whole."""
    model = fresh()
    whole = read_covariances(model)
    calls: list[list[Tensor]] = [[], []]

    def read(rank: int, add: Callable[[Tensor], object]) -> dict[str, InputCovariance]:
        mine = slice(rank, None, 2)
        return input_covariances(
            lora2r_model(model), lambda: model(IDS[mine]), COMPLETION[mine], HACK[mine], sum_over_ranks=add
        )

    read(1, lambda tensor: calls[1].append(tensor.clone()))
    others = iter(calls[1])
    found = read(0, lambda tensor: tensor.add_(next(others)))
    for name, both in whole.items():
        torch.testing.assert_close(found[name].hack, both.hack)
        torch.testing.assert_close(found[name].clean, both.clean)


def test_signed_corda_points_the_quarantine_at_the_hack_sides() -> None:
    """On the real tokens, every rank of the quarantine reads hacks more than clean replies, and the deployed not."""
    for name, sign in (("signed_corda", 1), ("reversed_corda", -1)):
        model = fresh()
        found = read_covariances(model)
        initialise(lora2r_model(model), name, covariances=found)
        for layer in lora2r_model(model).lora2r_layers():
            a0, both = layer.lora_2r_A0["default"], found[layer.module_name]
            more = sign * (a0 @ (both.hack - both.clean) @ a0.T).diagonal()
            assert (more[3:] > 0).all() and (more[:3] < 0).all()


def test_parts_and_synchronise_and_saving(tmp_path) -> None:
    model = fresh()
    tuner = lora2r_model(model)
    names = [layer.module_name for layer in tuner.lora2r_layers()]
    before, synchronised = inits_of(tuner), []
    for part in (names[:5], names[5:]):
        initialise(
            tuner,
            "signed_corda",
            covariances=read_covariances(model, modules=part),
            modules=part,
            synchronise=synchronised.append,
        )
    assert len(synchronised) == 2 * len(names)
    assert all(not torch.equal(old[0], new[0]) for old, new in zip(before, inits_of(tuner), strict=True))
    perturb(model)
    model.save_pretrained(tmp_path)
    assert torch.equal(
        PeftModel.from_pretrained(tiny_qwen3(), tmp_path).eval()(IDS).logits, model(IDS).logits
    )


def test_bf16_base(tmp_path: Path) -> None:
    """A0, B0 in the base's precision and dA, dB in float32 whichever way PEFT makes the model; also through a checkpoint,
    to the bit."""
    config = Lora2rConfig(r=3, task_type="CAUSAL_LM")
    model = get_peft_model(tiny_qwen3(torch.bfloat16), config).eval()
    initialise(lora2r_model(model), "signed_corda", covariances=read_covariances(model))
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_qwen3(torch.bfloat16), tmp_path)
    loaded.load_adapter(tmp_path, "second")
    added = get_peft_model(tiny_qwen3(torch.bfloat16), config)
    added.add_adapter("second", config)
    for made, name in [(model, "default"), (loaded, "default"), (loaded, "second"), (added, "second")]:
        for layer in lora2r_model(made).lora2r_layers():
            assert layer.lora_2r_A0[name].dtype == layer.lora_2r_B0[name].dtype == base_weight(layer).dtype
            assert layer.lora_2r_dA[name].dtype == layer.lora_2r_dB[name].dtype == torch.float32
    for name in ("default", "second"):
        for ours, theirs in zip(
            lora2r_model(model).lora2r_layers(), lora2r_model(loaded).lora2r_layers(), strict=True
        ):
            assert torch.equal(ours.lora_2r_A0["default"], theirs.lora_2r_A0[name])
            assert torch.equal(ours.lora_2r_B0["default"], theirs.lora_2r_B0[name])


def test_errors_name_the_mistake(adapted: PeftModel) -> None:
    model = fresh()
    with pytest.raises(ValueError, match=r"adapter\.init='lora' is no init"):
        initialise(lora2r_model(model), "lora")
    with pytest.raises(ValueError, match=r"'corda' of model\.layers\.0.*covariance"):
        initialise(lora2r_model(model), "corda")
    with pytest.raises(ValueError, match="has been trained"):
        initialise(lora2r_model(adapted), "pissa")
    with pytest.raises(ValueError, match="both sides must have some"):
        input_covariances(lora2r_model(model), lambda: model(IDS), COMPLETION, HACK | True)
    with pytest.raises(ValueError, match="took no part"):
        input_covariances(lora2r_model(model), lambda: None, COMPLETION, HACK)
    wide = get_peft_model(tiny_qwen3(), Lora2rConfig(r=20, task_type="CAUSAL_LM"))
    with pytest.raises(ValueError, match=r"the adapter.* 40: lower r"):
        initialise(lora2r_model(wide), "pissa")
    with pytest.raises(ValueError, match=r"adapter rank 40: lower r"):
        initialise(lora2r_model(wide), "corda", covariances=read_covariances(wide))
