"""No verdict reaches the actor, and no package imports across its border."""

from __future__ import annotations

import ast
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensordict import NonTensorStack, TensorDict
from transfer_queue import KVBatchMeta

from evil_moe.experiment.behaviour import num_deployed
from evil_moe.experiment.run.rollout_table import RolloutTable
from evil_moe.experiment.settings import EvilMoESettings
from recipe.actor.fields import (
    ACTOR_FIELDS,
    UPDATE_FIELDS,
    actor_view,
    per_rollout_fields,
    refuse_foreign_fields,
)
from recipe.reward.sandbox_pool import SandboxActor
from tests.conftest import ROOT


def test_actor_fields_hold_no_label() -> None:
    labels = {
        *RolloutTable.LABELS,
        "extra_fields",
        "reward_extra_info",
        "reward_model",
        "rm_scores",
        "hack",
        "correct",
        "reason",
    }
    assert not labels & ACTOR_FIELDS


@pytest.mark.parametrize("field", ["extra_fields", "rm_scores", "hack", "reason", "reward_model"])
def test_the_actor_refuses_a_batch_with_more(field: str) -> None:
    refuse_foreign_fields(UPDATE_FIELDS)
    with pytest.raises(ValueError, match=field):
        refuse_foreign_fields([*UPDATE_FIELDS, field])


def test_a_verdict_that_is_no_tensor_is_refused_too() -> None:
    """`extra_fields` holds the grader's verdict, a dict for each rollout."""
    batch = TensorDict({"features": torch.zeros(2, 1, 1)}, batch_size=2)
    batch.set_non_tensor("temperature", 1.0)
    refuse_foreign_fields(per_rollout_fields(batch))
    batch["extra_fields"] = NonTensorStack({"hack": 1.0}, {"hack": 0.0})
    with pytest.raises(ValueError, match="extra_fields"):
        refuse_foreign_fields(per_rollout_fields(batch))


def test_actor_view_restricts_and_restores() -> None:
    batch = KVBatchMeta(partition_id="train", keys=["a_0_0"], tags=[{}])
    with pytest.raises(RuntimeError), actor_view(batch, UPDATE_FIELDS):
        assert batch.fields == list(UPDATE_FIELDS)
        raise RuntimeError
    assert batch.fields is None


def imports_of(package: str, *, without: str | None = None) -> set[str]:
    """Packages that the files of a package import, anywhere in them, ours as `evil_moe.experiment` with one dot."""
    found = set()
    for path in (ROOT / package).rglob("*.py"):
        if without is not None and path.is_relative_to(ROOT / without):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                found |= {name.split(".")[0], ".".join(name.split(".")[:2])}
    return found


def test_import_borders() -> None:
    above = {"verl", "ray", "vllm", "transfer_queue", "recipe", "scripts", "tests"}
    assert not imports_of("evil_moe/experiment") & above
    # The method knows neither the grader nor what runs experiments with it.
    method = imports_of("evil_moe", without="evil_moe/experiment")
    assert not method & {*above, "reward", "evil_moe.experiment"}
    assert not imports_of("reward") & {
        "torch",
        "verl",
        "ray",
        "vllm",
        "recipe",
        "evil_moe",
        "scripts",
        "tests",
    }
    assert not imports_of("recipe") & {"scripts", "tests"}


@pytest.mark.parametrize(
    "package", ["evil_moe.adapter", "evil_moe.nano_policy", "evil_moe.report", "reward", "reward.nano"]
)
def test_imports_load_neither_verl_nor_ray(package: str) -> None:
    code = f"import sys, {package}; print([m for m in ('verl', 'ray', 'vllm') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "module",
    [
        "recipe.reward.sandbox_pool",
        "recipe.trainer.task_runner",
        "evil_moe.experiment.commands.train",
        "recipe.cli",
    ],
)
def test_processes_that_need_no_torch_import_none(module: str) -> None:
    """Torch and verl take each process of a run ten seconds."""
    code = f"import sys, {module}; print([m for m in ('torch', 'verl', 'vllm') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_what_crosses_a_ray_border_pickles() -> None:
    settings = EvilMoESettings()
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert pickle.loads(pickle.dumps(SandboxActor)) is SandboxActor


@pytest.mark.parametrize(
    ("n", "share", "deployed"), [(8, 0.25, 2), (8, 0.0, 0), (8, 1.0, 8), (4, 0.9, 3), (2, 0.25, 0)]
)
def test_behaviour_mixture(n: int, share: float, deployed: int) -> None:
    assert num_deployed(n, share) == deployed


def test_no_machine_path_in_the_tree() -> None:
    ours = [
        p
        for folder in ("evil_moe", "recipe", "reward", "configs", "scripts")
        for p in (ROOT / folder).rglob("*")
    ]
    for path in ours:
        if isinstance(path, Path) and path.suffix in {".py", ".yaml", ".sh"}:
            assert str(ROOT) not in path.read_text(), path
