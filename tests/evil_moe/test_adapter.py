"""Invariants of the two-expert adapter. Numbers in the names are those of the list in docs/invariants.md."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import set_peft_model_state_dict
from torch import Tensor

from evil_moe.ablation import quarantine_reset, reset_quarantine_, reset_random_block_
from evil_moe.adapter import GateWeights, Lora2rConfig, Lora2rLinear, SequenceLayout, lora2r_model
from evil_moe.export import adapter_tensors, export_adapter, save_export
from evil_moe.features import MeanPooling
from tests.conftest import perturb, tiny_qwen3

IDS = torch.randint(1, 64, (3, 11), generator=torch.Generator().manual_seed(7))
PADDED = SequenceLayout(segment=None, completion=torch.ones(3, 11), batch_size=3)


def weights(m: list[float], d: list[float] | None = None, num_quarantine: int = 1) -> GateWeights:
    m_tensor = torch.tensor(m).unsqueeze(1).expand(-1, num_quarantine)
    return GateWeights(m=m_tensor, d=torch.tensor(m if d is None else d))


def gated_logits(model: PeftModel, gate: GateWeights, layout: SequenceLayout = PADDED) -> Tensor:
    with lora2r_model(model).forward_state.gated(gate, layout):
        return model(IDS).logits


def block_gradients(model: PeftModel) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients of the deployed and of the quarantine blocks, after a backward."""
    deployed, quarantine = [], []
    for layer in lora2r_model(model).lora2r_layers():
        r = layer.configs["default"].r
        d_a, d_b = layer.lora_2r_dA["default"].grad, layer.lora_2r_dB["default"].grad
        assert d_a is not None and d_b is not None
        deployed += [d_a[:r], d_b[:, :r]]
        quarantine += [d_a[r:], d_b[:, r:]]
    return deployed, quarantine


def gated_backward(model: PeftModel, gate: GateWeights) -> tuple[list[Tensor], list[Tensor]]:
    model.zero_grad()
    with lora2r_model(model).forward_state.gated(gate, PADDED):
        model(IDS).logits.square().mean().backward()
    return block_gradients(model)


def test_identity_at_init() -> None:
    base = tiny_qwen3()
    expected = base(IDS).logits
    model = get_peft_model(tiny_qwen3(), Lora2rConfig(r=4)).eval()
    assert torch.equal(model(IDS).logits, expected)
    assert torch.equal(gated_logits(model, weights([0.0, 0.4, 1.0])), expected)
    assert len(lora2r_model(model).lora2r_layers()) == 2 * 7


def test_w0_is_the_deployed_model_in_value_and_gradient(adapted: PeftModel) -> None:
    tuner = lora2r_model(adapted)
    adapted.zero_grad()
    with tuner.quarantine_off():
        expected = adapted(IDS).logits
        expected.square().mean().backward()
    expected_gradients = [g.clone() for g in block_gradients(adapted)[0]]

    gate = weights([0.0, 0.0, 0.0])
    torch.testing.assert_close(gated_logits(adapted, gate), expected, rtol=1e-6, atol=1e-6)
    deployed, quarantine = gated_backward(adapted, gate)
    for got, want in zip(deployed, expected_gradients, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-8)
    assert all(torch.count_nonzero(g) == 0 for g in quarantine)


def test_w1_leaves_the_deployed_gradients_exactly_zero(adapted: PeftModel) -> None:
    gate = weights([1.0, 1.0, 1.0])
    torch.testing.assert_close(gated_logits(adapted, gate), adapted(IDS).logits, rtol=1e-5, atol=1e-6)
    deployed, quarantine = gated_backward(adapted, gate)
    assert all(torch.count_nonzero(g) == 0 for g in deployed)
    assert all(torch.count_nonzero(g) > 0 for g in quarantine)


def test_rows_are_gated_independently(adapted: PeftModel) -> None:
    mixed = gated_logits(adapted, weights([0.0, 1.0, 0.3]))
    for row, w in enumerate([0.0, 1.0, 0.3]):
        torch.testing.assert_close(
            mixed[row], gated_logits(adapted, weights([w] * 3))[row], rtol=1e-5, atol=1e-6
        )


def test_gradient_of_w_matches_a_numerical_derivative() -> None:
    """In float64 on a small network of our layers (Qwen3's norms compute in float32 whatever the weights are)."""
    network = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 5)).double()
    model = get_peft_model(network, Lora2rConfig(r=2, num_quarantine=2, target_modules=["0", "2"])).double()
    perturb(model, scale=0.3)
    x = torch.randn(3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    layout = SequenceLayout(None, None, 3)

    def output(m: Tensor) -> Tensor:
        gate = GateWeights(m=m, d=torch.zeros(3, dtype=torch.float64))
        with lora2r_model(model).forward_state.gated(gate, layout):
            return model(x)

    m = torch.tensor([[0.0, 0.2], [0.5, 0.5], [0.9, 1.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(output, (m,))


def test_d_stops_only_the_deployed_gradient(adapted: PeftModel) -> None:
    free, _ = gated_backward(adapted, weights([0.5] * 3, [0.0] * 3))
    free = [g.clone() for g in free]
    value_free = gated_logits(adapted, weights([0.5] * 3, [0.0] * 3))
    half, _ = gated_backward(adapted, weights([0.5] * 3, [0.5] * 3))
    last = len(free) - 1  # the last linear: nothing behind it is stopped, so its gradient is exactly halved
    torch.testing.assert_close(half[last], free[last] * 0.5, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(gated_logits(adapted, weights([0.5] * 3, [0.5] * 3)), value_free)


@pytest.mark.parametrize("num_quarantine", [1, 3])
def test_packed_equals_padded(num_quarantine: int) -> None:
    from transformers import AutoModelForCausalLM  # noqa: F401  # registers attention backends

    model = get_peft_model(
        tiny_qwen3(), Lora2rConfig(r=4, num_quarantine=num_quarantine, quarantine_rank=2)
    ).eval()
    perturb(model)
    tuner, lengths = lora2r_model(model), [11, 6, 8]
    mask = torch.arange(11)[None] < torch.tensor(lengths)[:, None]
    completion = mask & (torch.arange(11) >= 4)
    m = torch.rand(3, num_quarantine, generator=torch.Generator().manual_seed(3))
    gate = GateWeights(m=m, d=torch.tensor([0.1, 0.9, 0.5]))

    padded = SequenceLayout(None, completion.float(), 3)
    with (
        tuner.forward_state.gated(gate, padded),
        tuner.forward_state.reading_features(MeanPooling().reading(tuner)) as read,
    ):
        logits = model(IDS, attention_mask=mask.long()).logits[mask]
    padded_features = read.features()

    segment = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))
    packed = SequenceLayout(segment, completion[mask].float(), 3)
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    same = segment[:, None] == segment[None]
    causal = same & (torch.arange(len(segment))[:, None] >= torch.arange(len(segment))[None])
    with (
        tuner.forward_state.gated(gate, packed),
        tuner.forward_state.reading_features(MeanPooling().reading(tuner)) as read,
    ):
        out = model(IDS[mask][None], position_ids=positions, attention_mask=causal[None, None])
    torch.testing.assert_close(out.logits[0], logits, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(read.features(), padded_features, rtol=1e-5, atol=1e-6)
    assert padded_features.shape == (3, 14, 4)


def test_features_of_the_base_model_do_not_move_with_the_adapter() -> None:
    model = get_peft_model(tiny_qwen3(), Lora2rConfig(r=4)).eval()
    tuner, gate = lora2r_model(model), weights([0.0, 1.0, 1.0])
    with model.disable_adapter():
        base = model(IDS).logits

    def read(*, of_base: bool) -> tuple[Tensor, Tensor]:
        with (
            tuner.forward_state.gated(gate, PADDED),
            tuner.forward_state.reading_features(MeanPooling().reading(tuner), of_base) as found,
        ):
            logits = model(IDS).logits
        return found.features(), logits

    before, _ = read(of_base=True)
    # At the start all are one, up to the order of sums in products of two shapes.
    torch.testing.assert_close(read(of_base=False)[0], before, rtol=1e-5, atol=1e-7)
    perturb(model)
    after, still_base = read(of_base=True)
    assert torch.equal(after, before) and torch.equal(still_base, base)
    assert not torch.isclose(read(of_base=False)[0], before).all()


def test_save_and_load_under_another_seed(adapted: PeftModel, tmp_path) -> None:
    adapted.save_pretrained(tmp_path)
    torch.manual_seed(999)
    reloaded = PeftModel.from_pretrained(tiny_qwen3(), tmp_path).eval()
    assert torch.equal(reloaded(IDS).logits, adapted(IDS).logits)
    # the saved init is what counts, not the seed in the config
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    config["init_seed"] = 12345
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert torch.equal(
        PeftModel.from_pretrained(tiny_qwen3(), tmp_path).eval()(IDS).logits, adapted(IDS).logits
    )


def test_disable_merge_and_unload(adapted: PeftModel) -> None:
    expected = adapted(IDS).logits
    with adapted.disable_adapter():
        assert torch.equal(adapted(IDS).logits, tiny_qwen3()(IDS).logits)
    adapted.merge_adapter()
    torch.testing.assert_close(adapted(IDS).logits, expected, rtol=1e-4, atol=1e-5)
    adapted.unmerge_adapter()
    torch.testing.assert_close(adapted(IDS).logits, expected, rtol=1e-5, atol=1e-6)
    merged = adapted.merge_and_unload(safe_merge=True)
    assert not any(isinstance(module, Lora2rLinear) for module in merged.modules())
    torch.testing.assert_close(merged(IDS).logits, expected, rtol=1e-4, atol=1e-5)


def test_only_the_adapter_trains(adapted: PeftModel) -> None:
    trainable = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trainable and all("lora_2r_d" in name for name in trainable)


@pytest.mark.parametrize("kind", ["full", "deployed"])
def test_export_equals_the_adapter(adapted: PeftModel, kind: str, tmp_path) -> None:
    tuner = lora2r_model(adapted)
    if kind == "full":
        expected = adapted(IDS).logits
    else:
        with tuner.quarantine_off():
            expected = adapted(IDS).logits
    state, config = export_adapter(adapter_tensors(adapted), adapted.peft_config["default"], kind)  # type: ignore[arg-type]
    assert config["r"] == (16 if kind == "full" else 8)
    lora = get_peft_model(
        tiny_qwen3(), LoraConfig(r=config["r"], lora_alpha=config["lora_alpha"], target_modules="all-linear")
    )
    result = set_peft_model_state_dict(lora, state)
    assert not result.unexpected_keys
    torch.testing.assert_close(lora.eval()(IDS).logits, expected, rtol=1e-5, atol=1e-6)
    from_disk = PeftModel.from_pretrained(tiny_qwen3(), save_export(adapted, kind, tmp_path / kind)).eval()  # type: ignore[arg-type]
    torch.testing.assert_close(from_disk(IDS).logits, expected, rtol=1e-5, atol=1e-6)


def test_quarantine_reset_restores_and_resets(adapted: PeftModel) -> None:
    full = adapted(IDS).logits
    with lora2r_model(adapted).quarantine_off():
        deployed = adapted(IDS).logits
    with pytest.raises(RuntimeError, match="inside"), quarantine_reset(adapted):
        torch.testing.assert_close(adapted(IDS).logits, deployed, rtol=1e-5, atol=1e-6)
        raise RuntimeError("inside")
    assert torch.equal(adapted(IDS).logits, full)
    reset_quarantine_(adapted)
    torch.testing.assert_close(adapted(IDS).logits, deployed, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(full, deployed)


def test_random_block_is_as_large_as_the_quarantine_and_drawn_from_all_ranks() -> None:
    def reset(seed: int) -> list[list[int]]:
        """Ranks that are zero afterwards, by module; the others are as before."""
        model = get_peft_model(tiny_qwen3(), Lora2rConfig(r=4, num_quarantine=2, quarantine_rank=3))
        perturb(model)
        before = [p.detach().clone() for p in model.parameters()]
        reset_random_block_(model, seed)
        for old, new in zip(before, model.parameters(), strict=True):
            assert ((new == old) | (new == 0)).all()
        zero = []
        for layer in lora2r_model(model).lora2r_layers():
            d_a, d_b = layer.lora_2r_dA["default"], layer.lora_2r_dB["default"]
            ranks = (d_a == 0).all(1)
            assert torch.equal(ranks, (d_b == 0).all(0))
            assert not (d_a[~ranks] == 0).any() and not (d_b[:, ~ranks] == 0).any()
            zero.append(ranks.nonzero().flatten().tolist())
        return zero

    zero = reset(seed=0)
    assert [len(ranks) for ranks in zero] == [6] * 14
    assert {rank for ranks in zero for rank in ranks} == set(range(10))
    assert len({tuple(ranks) for ranks in zero}) > 7, "each module has a draw of its own"
    assert reset(seed=0) == zero != reset(seed=1)


def test_bf16_residual_form_is_no_worse_than_fp32_subtraction() -> None:
    """Near init the update is small against B A x; a subtraction of two bf16 copies would lose it."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(64, 64, bias=False)
    model = get_peft_model(torch.nn.Sequential(linear), Lora2rConfig(r=8, target_modules=["0"]))
    perturb(model, scale=1e-3)
    layer = lora2r_model(model).lora2r_layers()[0]
    x = torch.randn(1, 32, 64)
    d_a, d_b = layer.lora_2r_dA["default"].detach(), layer.lora_2r_dB["default"].detach()
    a0, b0 = layer.lora_2r_A0["default"], layer.lora_2r_B0["default"]
    exact = (x.double() @ ((b0 + d_b).double() @ (a0 + d_a).double() - b0.double() @ a0.double()).T).float()

    low = get_peft_model(torch.nn.Sequential(linear).bfloat16(), Lora2rConfig(r=8, target_modules=["0"]))
    low_layer = lora2r_model(low.bfloat16()).lora2r_layers()[0]
    with torch.no_grad():
        low_layer.lora_2r_dA["default"].copy_(d_a)
        low_layer.lora_2r_dB["default"].copy_(d_b)
    residual = low_layer._update(x.bfloat16(), "default").float()
    copies = x @ ((b0 + d_b).bfloat16().float() @ (a0 + d_a).bfloat16().float()).T
    subtraction = copies - x @ (b0.bfloat16().float() @ a0.bfloat16().float()).T
    error = lambda y: ((y - exact).norm() / exact.norm()).item()  # noqa: E731
    assert error(residual) < 0.02
    assert error(residual) <= error(subtraction), "even in fp32 arithmetic, bf16 copies lose more"


def test_errors_name_the_mistake() -> None:
    with pytest.raises(ValueError, match=r"Lora2rConfig\.r is 0"):
        Lora2rConfig(r=0)
    with pytest.raises(ValueError, match="Embedding"):
        get_peft_model(tiny_qwen3(), Lora2rConfig(target_modules=["embed_tokens"]))
    model = get_peft_model(tiny_qwen3(), Lora2rConfig(r=4))
    with pytest.raises(ValueError, match="2 rollouts for a layout of 3"):
        lora2r_model(model).forward_state.set(weights([0.0, 1.0]), PADDED)
