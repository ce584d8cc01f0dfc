"""Finds device slips without a GPU: the device's tensors are torch's own, and what a GPU run would hold on the host is told
apart by its type.

Within `on_device()` a tensor made without a device, or with `device=x.device` of such a tensor, is a `HostTensor`. It
computes as any other, in the same numbers, and `.to(get_device_id())` makes it a plain one, as it would put it on the GPU.
An operation on both kinds raises `DeviceSlip` where CUDA would refuse it. So real parts run as they do on a CPU, FSDP2 and
autograd among them, and batches, masks and indices that somebody forgot to move are found.

Allowed, as on CUDA: copies from one to the other, a scalar of the host in elementwise arithmetic, indices from the host.
Not seen: `device="cpu"` written out in the code that runs, as here it means the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
    return_and_correct_aliasing,
)
from torch.utils._pytree import tree_flatten, tree_map_only

HOST = torch.device("lazy")
"""What a `HostTensor` gives as its device: one that torch knows, that needs no start-up, and whose gradients run on the CPU's
queue."""

_aten = torch.ops.aten
_INDEXING = {_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_}
_NUMPY = {Tensor.numpy, Tensor.__array__}


class DeviceSlip(RuntimeError):
    """An operation on tensors of the host and of the device."""


class HostTensor(torch.Tensor):
    """A tensor in the host's memory, around a plain one."""

    held: Tensor

    @staticmethod
    def __new__(cls, real: Tensor) -> HostTensor:
        host = torch.Tensor._make_wrapper_subclass(
            cls, real.shape, real.stride(), real.storage_offset(), dtype=real.dtype, device=HOST
        )
        host.held = real
        return host

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self) -> Any:
        return self.held.tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"HostTensor({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, types, args, kwargs or {})


def _run(func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if any(kind not in (Tensor, torch.nn.Parameter, HostTensor) for kind in types):
        return NotImplemented  # a nested or sharded tensor's own parts come by one by one
    flat, _ = tree_flatten((args, kwargs))
    host = [x for x in flat if isinstance(x, HostTensor)]
    device = [x for x in flat if isinstance(x, Tensor) and not isinstance(x, HostTensor)]
    on_host = bool(host) and not device
    packet, asked = func.overloadpacket, kwargs.get("device")
    if packet is _aten.copy_:
        on_host = isinstance(args[0], HostTensor)
    elif asked is not None:
        on_host = torch.device(asked).type == HOST.type
        kwargs = {**kwargs, "device": torch.device("cpu")}
    elif host and device:
        scalars = torch.Tag.pointwise in func.tags and all(x.ndim == 0 for x in host)
        from_host = packet in _INDEXING and not isinstance(args[0], HostTensor)
        if not (scalars or from_host):
            shapes = f"{[list(x.shape) for x in host]} on the host, {[list(x.shape) for x in device]} on the device"
            raise DeviceSlip(f"{func}: {shapes}")
    if not on_host and any(isinstance(x, torch.Generator) for x in flat):
        raise DeviceSlip(f"{func}: a generator of the host for a tensor on the device")
    real_args, real_kwargs = tree_map_only(HostTensor, lambda x: x.held, (args, kwargs))
    out = func(*real_args, **real_kwargs)
    if not on_host:
        return args[0] if packet is _aten.copy_ else out
    out = tree_map_only(Tensor, HostTensor, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if host else out


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if FakeTensor in types:  # a sharded operation's shapes being worked out
            return func(*args, **(kwargs or {}))
        return _run(func, types, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """What never reaches the dispatcher as it was called: constructors without a device, numpy, `.cpu()`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _device_constructors():
            asked = kwargs.get("device")
            if asked is None or torch.device(asked).type == HOST.type:
                with _disable_current_modes():
                    made = func(*args, **{**kwargs, "device": "cpu", "requires_grad": False})
                return HostTensor(made).requires_grad_(kwargs.get("requires_grad", False))
        if func is torch.from_numpy:
            return HostTensor(func(*args, **kwargs))
        if func in _NUMPY:
            if not isinstance(args[0], HostTensor):
                raise DeviceSlip("numpy of a tensor on the device")
            return func(args[0].held, *args[1:], **kwargs)
        if func is Tensor.cpu:
            return args[0].to(HOST)
        return func(*args, **kwargs)


@contextmanager
def on_device() -> Iterator[None]:
    """Plain tensors are the device's, new ones the host's; see the module's docstring."""
    with _Functions(), _Operations():
        yield
