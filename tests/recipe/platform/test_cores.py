"""The cores that a run holds in Ray: too few are refused, with the numbers, before Ray waits for ever."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import ray

from evil_moe.experiment.config import compose
from evil_moe.experiment.doctor.cores import STORAGE, CoreDemand, Node, shortage
from evil_moe.experiment.doctor.finding import FAIL
from recipe.platform import cores
from recipe.platform.cores import check_cores, core_demand, refuse_few_cores

FILES = ["evil_moe.data.train=t.jsonl", "evil_moe.data.evaluation=e.jsonl"]
EIGHT = CoreDemand(1, 1, 1, units=8, per_gpu=3, groups=(8,))


def _short(need: CoreDemand, *nodes: Node) -> str:
    return shortage(need, nodes, "this machine has", "use a machine with more cores")


def test_what_a_run_holds_is_read_from_the_config_and_the_classes():
    one = core_demand(compose(["preset=qwen3_4b_1x96gb", *FILES]))
    assert one == CoreDemand(1, 1, 1, units=1, per_gpu=3, groups=(1,)) and one.total == 6
    assert core_demand(compose(["preset=qwen3_4b_1x96gb", f"{STORAGE}=8", *FILES])).total == 13
    assert core_demand(compose(["preset=qwen3_4b_fsdp", *FILES])).total == 27
    nodes = core_demand(compose(["preset=qwen3_4b_fsdp", "trainer.nnodes=2", f"{STORAGE}=8", *FILES]))
    assert nodes.groups == (8, 8) and nodes.total == 58
    mooncake = ["transfer_queue.backend.storage_backend=MooncakeStore"]
    assert core_demand(compose(["preset=qwen3_4b_1x96gb", *mooncake, *FILES])).units == 0
    with pytest.raises(ValueError, match=r"num_data_storage_units=0: give a whole number from 1"):
        core_demand(compose([f"{STORAGE}=0"]))


def test_eight_gpus_on_32_cores_are_refused_with_the_numbers_and_the_mends():
    assert _short(EIGHT, Node(32, 8)) == (
        "this machine has 32 free Ray CPUs, and the run holds 1 for the task runner + 1 for the queue's controller + 8 storage "
        "units of 1 + 3 x 8 GPUs = 34: Ray would wait for ever; set transfer_queue.backend.SimpleStorage."
        "num_data_storage_units=1 (at most 6), or set trainer.n_gpus_per_node=7, or use a machine with more cores (at least 34)"
    )
    assert not _short(EIGHT, Node(34, 8))


@pytest.mark.parametrize(
    ("units", "gpus", "there", "mends"),
    [
        (8, 1, 12, ["=1 (at most 7)", "more cores (at least 13)"]),
        (1, 8, 16, ["n_gpus_per_node=4", "more cores (at least 27)"]),
        (8, 8, 16, ["n_gpus_per_node=2", "units=1 and trainer.n_gpus_per_node=4", "(at least 34)"]),
        (1, 1, 2, ["more cores (at least 6)"]),
    ],
)
def test_each_mend_would_do(units: int, gpus: int, there: int, mends: list[str]):
    said = _short(CoreDemand(1, 1, 1, units, 3, (gpus,)), Node(there, gpus)).split("for ever; ")[1]
    parts = said.split(", or ")
    assert len(parts) == len(mends) and all(mend in part for mend, part in zip(mends, parts, strict=True)), (
        said
    )


def test_a_group_lies_on_one_node():
    need = CoreDemand(1, 1, 1, units=2, per_gpu=3, groups=(8, 8))
    assert not _short(need, Node(32, 8), Node(32, 8))
    assert "room for 1 of 2 groups of 8 GPUs and 24 CPUs" in _short(need, Node(64, 8), Node(16, 8))
    assert "room for 1 of 2 groups" in _short(need, Node(32, 8), Node(32, 4), Node(32, 4))
    assert not _short(need, Node(64, 16)), "verl asks for groups, not for nodes"


def test_this_machine_and_an_override_are_judged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = compose(["preset=qwen3_4b_fsdp", f"{STORAGE}=8", *FILES])
    monkeypatch.setattr("ray._private.utils.get_num_cpus", lambda: 32)
    finding = check_cores(config)
    assert finding.status == FAIL and finding.text.startswith("this machine has 32 free Ray CPUs")
    monkeypatch.setattr("ray._private.utils.get_num_cpus", lambda: 34)
    assert check_cores(config).status != FAIL
    config.ray_kwargs.ray_init.num_cpus = 8
    finding = check_cores(config)
    assert finding.status == FAIL and "ray_kwargs.ray_init.num_cpus gives 8 free" in finding.text
    assert "raise ray_kwargs.ray_init.num_cpus (at least 34)" in finding.text
    assert check_cores(compose([])).status != FAIL, "nano's are logical"


@pytest.mark.long
def test_a_ray_that_is_there_is_asked_for_what_is_free(monkeypatch: pytest.MonkeyPatch):
    """On a running Ray of 7 CPUs a run of 6 fits; once another holds two, doctor and the driver refuse."""
    config = compose(["ray_kwargs.ray_init.num_cpus=null", "ray_kwargs.ray_init.num_gpus=null"])
    monkeypatch.setattr(cores, "find_cluster", lambda config: ("127.0.0.1:6379", "RAY_ADDRESS"))
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # short, for the names of sockets
        ray.init(address="local", num_cpus=7, num_gpus=1, include_dashboard=False, _temp_dir=folder)
        try:
            assert "7 free on 1 node(s)" in check_cores(config).text
            refuse_few_cores(config)
            other = ray.remote(num_cpus=2)(type("Other", (), {"there": lambda self: True})).remote()
            assert ray.get(other.there.remote())
            finding = check_cores(config)
            assert finding.status == FAIL and "127.0.0.1:6379 has 5 free Ray CPUs" in finding.text
            with pytest.raises(ValueError, match=r"Ray has 5 free Ray CPUs.*= 6: Ray would wait"):
                refuse_few_cores(config)
        finally:
            ray.shutdown()
