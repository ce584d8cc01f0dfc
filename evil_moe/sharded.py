"""Tensors that FSDP2 may have sharded (DTensors), handled alike with plain ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

# Private: FSDP2 offers no public way to ask where a shard begins. Replace it once torch has one.
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.distributed.tensor.placement_types import Partial


def whole(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor, on every rank; a collective. A plain tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def at_rest(model: nn.Module) -> None:
    """Parameters as the optimizer knows them: a forward without a backward leaves those of FSDP2's root gathered."""
    if isinstance(model, FSDPModule):
        model.reshard()


def whole_of_shares(parameter: Tensor, ranks: int) -> Tensor:
    """The whole of a parameter for losses of single ranks, which FSDP averages; a collective, in the backward as well.

    Each of the ranks has a part of the sum that its gradient is.
    """
    if not isinstance(parameter, DTensor):
        return parameter
    value = parameter.full_tensor(grad_placements=[Partial()] * parameter.device_mesh.ndim)
    if value.requires_grad:
        value.register_hook(lambda grad: grad / ranks)
    return value


def whole_alike(parameter: Tensor) -> Tensor:
    """The whole of a parameter for a loss that all ranks compute alike: their gradient is already the whole one; a collective."""
    if not isinstance(parameter, DTensor):
        return parameter
    return parameter.full_tensor(grad_placements=[Replicate()] * parameter.device_mesh.ndim)


def place_like(tensor: Tensor, like: Tensor) -> Tensor:
    """`tensor`, the same on every rank, placed as `like` is; a collective if that is sharded."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def whole_scalars(scalars: Sequence[Tensor]) -> Float[Tensor, " n"]:
    """Scalars summed up over the ranks where they are partial sums; one collective for all of them."""
    first = scalars[0]
    if not isinstance(first, DTensor):
        return torch.stack(list(scalars))
    parts = [s for s in scalars if isinstance(s, DTensor) and s.placements == first.placements]
    assert len(parts) == len(scalars), "scalars of one call are placed alike"
    local = torch.stack([part.to_local() for part in parts])
    return DTensor.from_local(local, first.device_mesh, first.placements).full_tensor()


def block_view(tensor: Tensor, block: slice, axis: int) -> Tensor:
    """This rank's part of `tensor[block]` along `axis`, as a view to write into; it may be empty."""
    start, stop, _ = block.indices(tensor.shape[axis])
    offset = 0
    if isinstance(tensor, DTensor):
        place = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
        offset, tensor = place[1][axis], tensor.to_local()
    first, last = (min(max(bound - offset, 0), tensor.shape[axis]) for bound in (start, stop))
    return tensor.narrow(axis, first, last - first)
