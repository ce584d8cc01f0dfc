"""Plugs by name: ours by short names, anybody's by an import path."""

from __future__ import annotations

import pytest
import torch

from evil_moe.adapter import GateWeights
from evil_moe.advantages import RolloutBatch, make_advantage, needs_concept
from evil_moe.gates import Gate, RolloutSignals, gate_class, make_gate
from evil_moe.gates.base import constant


class HalfGate(Gate):
    """A gate of one's own."""

    needs_flag = True

    def __init__(self, share: float = 0.5):
        super().__init__()
        self.share = share

    def forward(self, signals: RolloutSignals) -> GateWeights:
        return constant(signals, self.share, self.share)


class Doubled:
    """An advantage of one's own."""

    needs_concept = True

    def __call__(self, batch: RolloutBatch) -> torch.Tensor:
        return 2 * batch.reward


def test_a_plug_of_ones_own_is_named_by_its_import_path() -> None:
    given = RolloutSignals(torch.zeros(3), torch.zeros(3, 1))
    gate = make_gate(f"{__name__}.HalfGate", share=0.25)
    assert gate(given).d.tolist() == [0.25] * 3
    assert gate_class(f"{__name__}.HalfGate").needs_flag and not gate_class("router").needs_flag
    reward = torch.ones(2)
    batch = RolloutBatch(reward, reward, torch.zeros(2, dtype=torch.long), reward.bool())
    assert make_advantage(f"{__name__}.Doubled")(batch).tolist() == [2, 2]
    asks = {name: needs_concept(name) for name in (None, "dr_grpo", "rebound", f"{__name__}.Doubled")}
    assert list(asks.values()) == [False, False, True, True], asks


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nope", {}, r"evil_moe\.gate\.name='nope' names no plug; choose one of \['absorb'.*import path"),
        ("no_such_lab.gates.Mine", {}, "cannot be imported.*no_such_lab.*PYTHONPATH"),
        (f"{__name__}.Mine", {}, "cannot be imported.*Mine"),
        ("not a name.", {}, "cannot be imported"),
        (f"{__name__}.HalfGate", {"shore": 0.5}, r"evil_moe\.gate\.options: .*'shore'; the options .* share"),
    ],
)
def test_a_plug_that_cannot_be_is_named(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_gate(name, **options)
