"""Whether Ray has the cores that a run asks for. Where it has not, verl waits for its placement group for ever."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from evil_moe.experiment.doctor.cluster import KEYS, find_cluster
from evil_moe.experiment.doctor.finding import FAIL, OK, WARN, Finding

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


def core_demand(config: DictConfig) -> CoreDemand:
    """From the composed config, and from what our, TransferQueue's and verl's classes ask Ray for.

    Raises:
        ValueError: the number of storage units is none.
    """
    from transfer_queue.controller import TransferQueueController
    from transfer_queue.storage.simple_storage import SimpleStorageUnit
    from verl.single_controller.ray.base import ResourcePoolManager

    from recipe.trainer.task_runner import TaskRunner

    backend, units = config.transfer_queue.backend, 0
    if backend.storage_backend == "SimpleStorage":
        units = backend.SimpleStorage.num_data_storage_units
        if type(units) is not int or units < 1:
            raise ValueError(f"{STORAGE}={units}: give a whole number from 1")
    # As verl's `_init_resource_pool_mgr` makes its pools: the actor's, and one more for each model with GPUs of its own.
    pools, reward = [config.trainer], config.reward.reward_model
    pools += [reward] if reward.enable_resource_pool else []
    pools += [config.distillation] if OmegaConf.select(config, "distillation.enabled") else []
    return CoreDemand(
        runner=_cpus_of(TaskRunner),
        controller=_cpus_of(TransferQueueController),
        unit=_cpus_of(SimpleStorageUnit),
        units=units,
        per_gpu=ResourcePoolManager.max_colocate_count,
        groups=tuple(int(pool.n_gpus_per_node) for pool in pools for _ in range(int(pool.nnodes))),
    )


def _cpus_of(actor: Any) -> float:
    return float(actor._default_options["num_cpus"])  # Ray has no public way to ask a class


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


def joined_nodes() -> list[Node]:
    """What is free on each node of the Ray that this process has joined."""
    from ray._private.state import available_resources_per_node  # as verl does

    return [
        Node(float(free.get("CPU", 0)), float(free.get("GPU", 0)))
        for free in available_resources_per_node().values()
    ]


def refuse_few_cores(config: DictConfig) -> None:
    """For a driver that has joined Ray, before it starts anything there.

    Raises:
        ValueError: the numbers, and how to mend them.
    """
    mend = "end what else runs there, or give Ray more cores"
    if short := shortage(core_demand(config), joined_nodes(), "Ray has", mend):
        raise ValueError(short)


def check_cores(config: DictConfig) -> Finding:
    """The cores of the Ray that a run would start here, or of the cluster that it would join."""
    try:
        need = core_demand(config)
    except ValueError as error:
        return Finding("cores", FAIL, str(error))
    cluster = find_cluster(config)
    if cluster is not None:
        return _check_cluster(need, cluster[0])
    from ray._private.utils import get_num_cpus

    real, asked = len(os.sched_getaffinity(0)), config.ray_kwargs.ray_init.num_cpus
    counted = float(get_num_cpus() if asked is None else asked)
    where = "this machine has" if asked is None else f"{KEYS}.num_cpus gives"
    more = "use a machine with more cores" if asked is None else f"raise {KEYS}.num_cpus"
    if short := shortage(need, [Node(counted, sum(need.groups))], where, more):  # GPUs are another check's
        return Finding("cores", FAIL, short)
    text = (
        f"{real}" + (f", {counted:g} for Ray" if counted != real else "") + f"; the run holds {need.total:g}"
    )
    few = real < (2 if config.trainer.device == "cpu" else 8 * max(need.groups))
    return Finding("cores", WARN if few else OK, text, "works, slowly" if few else "")


def _check_cluster(need: CoreDemand, address: str) -> Finding:
    import ray

    joined = ray.is_initialized()
    try:
        if not joined:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        nodes = joined_nodes()
    except (ConnectionError, RuntimeError, ValueError) as error:
        return Finding(
            "cores", FAIL, f"{address} cannot be joined: {str(error).splitlines()[0]}", "see ray status"
        )
    finally:
        if not joined:
            ray.shutdown()
    mend = "end what else runs on it, or start more nodes"
    if short := shortage(need, nodes, f"the cluster {address} has", mend):
        return Finding("cores", FAIL, short)
    free = sum(node.cores for node in nodes)
    return Finding(
        "cores", OK, f"{free:g} free on {len(nodes)} node(s) of {address}; the run holds {need.total:g}"
    )
