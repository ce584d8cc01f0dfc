"""Fixtures: a tiny Qwen3 with random weights, and the annotated shapes checked at run time."""

from __future__ import annotations

import os
from pathlib import Path
from pkgutil import iter_modules

# Before torch: two test processes on two cores, a real run's among them, must not wait for each other by spinning.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook

# Before anything imports evil_moe. What prepares and reports experiments has no shapes to check.
_EVIL_MOE = Path(__file__).resolve().parent.parent / "evil_moe"
_WITH_SHAPES = [
    f"evil_moe.{module.name}" for module in iter_modules([str(_EVIL_MOE)]) if module.name != "experiment"
]
install_import_hook(_WITH_SHAPES, "beartype.beartype")

import pytest  # noqa: E402
import torch  # noqa: E402
from peft import PeftModel, get_peft_model  # noqa: E402
from transformers import Qwen3Config, Qwen3ForCausalLM  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent


@pytest.hookimpl(tryfirst=True)  # xdist's own hook reads the marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One worker of `pytest -n 2 --dist loadgroup` takes all that starts Ray or vLLM, one after the other.

    The other takes the rest beside it: a run's start-up is imports on one core.
    """
    for item in items:
        slow = item.get_closest_marker("slow") is not None
        real_run = not {"finished_run", "spoken_policy"}.isdisjoint(getattr(item, "fixturenames", ()))
        if real_run or (slow and "reward" not in item.path.relative_to(ROOT).parts[:2]):
            item.add_marker(pytest.mark.xdist_group("ray"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Two Ray runs at once would not fail but starve each other, so a worker that ignores the groups stops here."""
    if "PYTEST_XDIST_WORKER" in os.environ and session.config.getoption("loadgroup"):
        grouped = [item for item in session.items if item.get_closest_marker("xdist_group")]
        assert all(item.nodeid.endswith("@ray") for item in grouped), (
            "xdist does not group: see pyproject.toml"
        )


def tiny_qwen3(dtype: torch.dtype = torch.float32) -> Qwen3ForCausalLM:
    """Two layers, width 32, the same random weights every time."""
    config = Qwen3Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(config)
    return model.to(dtype).eval()


def perturb(model: PeftModel, scale: float = 0.05, seed: int = 1) -> None:
    """Move dA, dB off zero, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_2r_d" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)


@pytest.fixture
def adapted() -> PeftModel:
    """Tiny Qwen3 with a perturbed two-expert adapter of rank 4."""
    from evil_moe.adapter import Lora2rConfig

    model = get_peft_model(tiny_qwen3(), Lora2rConfig(r=4, task_type="CAUSAL_LM")).eval()
    perturb(model)
    return model


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real problems and graded cases, where it is there; it is not part of the project."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("../shared/data is not there")
    return folder
