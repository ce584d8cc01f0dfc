"""The cores that a run holds, by what verl's classes ask Ray for, and those that Ray has."""

from __future__ import annotations

import os
from typing import Any

from omegaconf import DictConfig, OmegaConf

from evil_moe.experiment.doctor.cluster import KEYS, find_cluster
from evil_moe.experiment.doctor.cores import STORAGE, CoreDemand, Node, shortage
from evil_moe.experiment.doctor.finding import FAIL, OK, WARN, Finding


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
