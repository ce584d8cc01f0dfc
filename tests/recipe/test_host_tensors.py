"""The device that is not there: what CUDA refuses is a slip, what it allows computes the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tensordict import TensorDict

from tests.recipe.host_tensors import DeviceSlip, HostTensor, on_device

DEVICE = torch.arange(12.0).view(3, 4)


def jagged() -> torch.Tensor:
    return torch.nested.as_nested_tensor([torch.arange(3), torch.arange(2)], layout=torch.jagged)


SLIPS: dict[str, Callable[[], Any]] = {
    "arithmetic": lambda: DEVICE + torch.zeros(4),
    "in place": lambda: DEVICE.clone().add_(torch.zeros(4)),
    "where": lambda: torch.where(torch.zeros(4) > 0, DEVICE, DEVICE),
    "stacked scalars": lambda: torch.stack([DEVICE.sum(), torch.tensor(1.0)]),
    "linear": lambda: torch.nn.functional.linear(DEVICE, torch.randn(2, 4)),
    "index of the device": lambda: torch.zeros(4)[torch.arange(2, device=DEVICE.device)],
    "index_add": lambda: DEVICE.clone().index_add_(0, torch.tensor([0]), DEVICE[:1]),
    "generator": lambda: torch.randn(2, device=DEVICE.device, generator=torch.Generator()),
    "numpy": lambda: DEVICE.numpy(),
    "brought back": lambda: DEVICE.cpu() + DEVICE,
    "jagged": lambda: jagged().to("cpu").values() - jagged().values(),
    "a copy moved": lambda: TensorDict({"a": jagged()}, batch_size=2)["a"].values() + DEVICE[0, :1].long(),
}  # fmt: skip


@pytest.mark.parametrize("name", SLIPS)
def test_a_slip_is_found(name: str) -> None:
    with on_device(), pytest.raises(DeviceSlip):
        SLIPS[name]()


def test_what_cuda_allows() -> None:
    with on_device():
        host = torch.tensor([1.0, 2.0, 3.0, 4.0])
        assert isinstance(host, HostTensor) and host.device != DEVICE.device
        sums = {
            "moved": DEVICE + host.to(DEVICE.device),
            "scalar": DEVICE * torch.tensor(2.0),
            "index": DEVICE[torch.tensor([True, False, True])],
            "copied": torch.zeros_like(DEVICE).copy_(host),
            "batch": TensorDict({"a": jagged()}, batch_size=2).to("cpu")["a"].values(),
        }
        assert not any(isinstance(value, HostTensor) for value in sums.values())
        assert host.tolist() == [1, 2, 3, 4] and host.sum().item() == 10 and host.numpy()[0] == 1
        drawn = torch.randn(3, generator=torch.Generator().manual_seed(0))
        weight = torch.ones(4, requires_grad=True)
        (weight * host).sum().backward()
        leaf = DEVICE.clone().requires_grad_()
        (leaf * 2).sum().backward()
    assert torch.equal(sums["moved"], DEVICE + torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert torch.equal(sums["index"], DEVICE[[0, 2]]) and torch.equal(sums["scalar"], DEVICE * 2)
    assert sums["batch"].tolist() == [0, 1, 2, 0, 1]
    assert torch.equal(drawn.held, torch.randn(3, generator=torch.Generator().manual_seed(0)))
    assert weight.grad.tolist() == [1, 2, 3, 4]
    assert type(leaf.grad) is torch.Tensor and leaf.grad.eq(2).all()
    assert type(torch.zeros(1)) is torch.Tensor
