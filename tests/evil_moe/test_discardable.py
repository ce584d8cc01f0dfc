"""The discardable baseline: the quarantine learns the hack sides, the deployed block does not move."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel, get_peft_model

from evil_moe import nano_policy
from evil_moe.ablation import reset_quarantine_
from evil_moe.adapter import Lora2rConfig, lora2r_model
from evil_moe.discardable import SideBatch, fit_quarantine_
from evil_moe.hack_gradient import pair_nll


@pytest.fixture(scope="module")
def policy() -> PeftModel:
    """A nano Qwen3 whose deployed block is not at its init, as in the middle of a run."""
    tokenizer = nano_policy.train_tokenizer(
        ["def f(nums):\n    return [x for x in nums]\n"] * 8, vocab_size=300
    )
    model = get_peft_model(
        nano_policy.build_model(tokenizer, seed=0),
        Lora2rConfig(r=4, num_quarantine=2, quarantine_rank=3, task_type="CAUSAL_LM"),
    ).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in lora2r_model(model).lora2r_layers():
            for view in (layer.lora_2r_dA["default"][:4], layer.lora_2r_dB["default"][:, :4]):
                view.copy_(torch.randn(view.shape, generator=generator) * 0.02)
    return model


def hack_batches() -> list[SideBatch]:
    generator = torch.Generator().manual_seed(2)
    batches = []
    for _ in range(2):
        ids = torch.randint(3, 260, (4, 24), generator=generator)
        ids[:, 14:] = torch.arange(20, 30)  # the one way to cheat
        mask = torch.ones_like(ids)
        batches.append(
            SideBatch({"input_ids": ids, "attention_mask": mask}, (torch.arange(24) >= 14) * mask * 1.0)
        )
    return batches


def test_fit_quarantine(policy: PeftModel) -> None:
    tuner, batches = lora2r_model(policy), hack_batches()
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    with torch.no_grad():
        start = pair_nll(policy, completion=batches[0].completion, **batches[0].inputs)
    losses = fit_quarantine_(policy, batches, steps=20, learning_rate=3e-3)

    assert len(losses) == 20
    assert losses[0] == pytest.approx(start.mean().item(), rel=1e-5)
    assert losses[-1] < 0.8 * losses[0]
    assert tuner.forward_state.weights is None
    assert all(p.grad is None for p in policy.parameters())
    moved = 0
    for name, value in policy.state_dict().items():
        old = before[name]
        if "lora_2r_dA" in name or "lora_2r_dB" in name:
            new, old = (value, old) if "dA" in name else (value.T, old.T)
            assert torch.equal(new[:4], old[:4]), name
            assert all(not torch.equal(new[i : i + 3], old[i : i + 3]) for i in (4, 7)), name
            moved += 1
        else:
            assert torch.equal(value, old), name
    assert moved == 2 * len(tuner.lora2r_layers())

    # At deployment it goes, and with it what it had learnt.
    reset_quarantine_(policy)
    with torch.no_grad():
        end = pair_nll(policy, completion=batches[0].completion, **batches[0].inputs)
    assert torch.equal(end, start)


def test_denominator_scales_the_loss_as_ranks_need_it(policy: PeftModel) -> None:
    """Two ranks with 3 and 1 sides, averaged by FSDP: denominator (3 + 1) / 2."""
    batch = hack_batches()[0]
    reset_quarantine_(policy)
    share = lambda rows: SideBatch({k: v[rows] for k, v in batch.inputs.items()}, batch.completion[rows])  # noqa: E731
    losses = []
    for part, denominator in [(share(slice(3)), 2.0), (share(slice(3, 4)), 2.0), (batch, None)]:
        losses += fit_quarantine_(policy, [part], steps=1, learning_rate=1e-3, denominator=denominator)
        reset_quarantine_(policy)
    assert (losses[0] + losses[1]) / 2 == pytest.approx(losses[2], rel=1e-5)


def test_nothing_to_fit_is_an_error(policy: PeftModel) -> None:
    with pytest.raises(ValueError, match="0 steps on 2 batches"):
        fit_quarantine_(policy, hack_batches(), steps=0, learning_rate=1e-3)
    with pytest.raises(ValueError, match="3 steps on 0 batches"):
        fit_quarantine_(policy, [], steps=3, learning_rate=1e-3)
