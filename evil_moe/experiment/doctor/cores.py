"""Whether so many cores are enough for what a run holds. Where they are not, verl waits for its placement group for ever."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

STORAGE = "transfer_queue.backend.SimpleStorage.num_data_storage_units"


@dataclass(frozen=True)
class Node:
    """What of a Ray node is free: logical CPUs and accelerators."""

    cores: float
    gpus: float


@dataclass(frozen=True)
class CoreDemand:
    """The Ray CPUs that a run holds to its end. Actors without a number of their own hold none.

    Attributes:
        runner, controller, unit: of the task runner, the queue's controller, and one of its storage units.
        units: how many storage units.
        per_gpu: of each accelerator's bundle in verl's placement groups.
        groups: accelerators of each placement group; one group lies on one node.
    """

    runner: float
    controller: float
    unit: float
    units: int
    per_gpu: float
    groups: tuple[int, ...]

    @property
    def total(self) -> float:
        return self.runner + self.controller + self.units * self.unit + self.per_gpu * sum(self.groups)

    def __str__(self) -> str:
        return (
            f"{self.runner:g} for the task runner + {self.controller:g} for the queue's controller + {self.units} storage "
            f"units of {self.unit:g} + {self.per_gpu:g} x {sum(self.groups)} GPUs = {self.total:g}"
        )


def shortage(need: CoreDemand, nodes: Sequence[Node], where: str, mend_cores: str) -> str:
    """Why Ray would wait for ever, and how to mend it; "" where nothing says that it would.

    Args:
        nodes: free CPUs and accelerators of each node. where: whose cores these are, for the message.
        mend_cores: how more of them are had.
    """
    there, gpus, pools = sum(node.cores for node in nodes), max(need.groups), len(need.groups)
    if there < need.total:
        small = need.total - need.per_gpu * sum(need.groups)
        units = int((there - need.total) / need.unit + need.units) if need.units else 0
        fewer = int((there - small) / need.per_gpu / pools)
        fewest = int((there - small + (need.units - 1) * need.unit) / need.per_gpu / pools)
        mends = []
        if units >= 1:
            mends.append(f"set {STORAGE}=1 (at most {units})")
        if fewer >= 1:
            mends.append(f"set trainer.n_gpus_per_node={fewer}")
        if units < 1 and need.units > 1 and fewest > fewer:
            mends.append(f"set {STORAGE}=1 and trainer.n_gpus_per_node={min(fewest, gpus)}")
        mends.append(f"{mend_cores} (at least {need.total:g})")
        return f"{where} {there:g} free Ray CPUs, and the run holds {need}: Ray would wait for ever; {', or '.join(mends)}"
    # A group lies on one node, beside its part of the storage units, which are dealt out to all nodes in turn.
    share = need.unit * (need.units // len(nodes))
    cores = need.per_gpu * gpus
    room = sum(int(min((node.cores - share) // cores, node.gpus // gpus)) for node in nodes)
    groups = need.groups.count(gpus)
    if room < groups:
        return (
            f"{where} {there:g} free Ray CPUs on {len(nodes)} node(s), with room for {room} of {groups} groups of {gpus} GPUs "
            f"and {cores:g} CPUs, each on one node beside {share:g} CPUs of storage units: Ray would wait for ever; use fewer "
            f"GPUs a node (trainer.n_gpus_per_node), fewer nodes (trainer.nnodes), or {mend_cores}"
        )
    return ""
