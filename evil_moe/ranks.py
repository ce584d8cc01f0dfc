"""The processes that train one model together, each with a share of the rollouts and of the pairs' sides, as the method sees
them."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor


@runtime_checkable
class Ranks(Protocol):
    """What a step asks of the others; each call is made by all of them, in the same order.

    Attributes:
        rank, size: the number of this one, and how many there are.
        device: where this one computes.
    """

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def device(self) -> Any: ...

    def gather(self, rows: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "N ..."]:
        """The rows of all, in the order of the ranks, without gradient; each may hold another number of them."""

    def reduce_(self, total: Tensor) -> None:
        """Make `total` the sum of all ranks'."""

    def broadcast_(self, value: Tensor) -> None:
        """Make `value` that of the first."""


class OneProcess:
    """Alone: all rows are its own."""

    rank, size = 0, 1

    def __init__(self, device: Any = "cpu"):
        self.device = device

    def gather(self, rows: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "N ..."]:
        return rows.detach()

    def reduce_(self, total: Tensor) -> None:
        """It is the sum already."""

    def broadcast_(self, value: Tensor) -> None:
        """It is the first's already."""


class GroupRanks:
    """The ranks of a torch process group that share the batch; `broadcast_` is from the first of all processes."""

    def __init__(self, group: Any, device: Any):
        self.group, self.device = group, device
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)

    def gather(self, rows: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "N ..."]:
        counts = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(self.size)]
        dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device), group=self.group)
        most = max(int(count) for count in counts)
        padded = rows.new_zeros(most, *rows.shape[1:])
        padded[: len(rows)] = rows.detach()
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded, group=self.group)
        return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])

    def reduce_(self, total: Tensor) -> None:
        dist.all_reduce(total, group=self.group)

    def broadcast_(self, value: Tensor) -> None:
        dist.broadcast(value, src=0)
