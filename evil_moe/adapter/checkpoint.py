"""The adapter on disk, whole and independent of ranks: PEFT's own files plus the router's.

verl's resume checkpoint is sharded by rank. Evaluation, export and people want this one.
"""

from __future__ import annotations

import os
from pathlib import Path

from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import evil_moe.adapter  # noqa: F401  # registers the tuner with PEFT
from evil_moe.file_modes import apply_umask
from evil_moe.router import Router
from evil_moe.saved_files import reading
from evil_moe.sharded import whole

ADAPTER_FILE, ROUTER_FILE = "adapter_model.safetensors", "router.safetensors"


def _whole(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: whole(value).detach().cpu().contiguous() for name, value in state.items()}


def save_adapter_checkpoint(model: PeftModel, router: Router, folder: Path, *, write: bool) -> None:
    """Gather on every rank, write where `write` (rank 0). The config goes last: it marks a complete folder."""
    # Router and gate share the adapter's prefix; the router has a file of its own, the gate is for resuming alone.
    state = get_peft_model_state_dict(model).items()
    adapter = _whole(
        {k: v for k, v in state if not any(part in k for part in ("lora_2r_router", "lora_2r_gate"))}
    )
    router_state = _whole(router.state_dict())
    if not write:
        return
    folder.mkdir(parents=True, exist_ok=True)
    save_file(router_state, folder / ROUTER_FILE)
    save_file(adapter, folder / ADAPTER_FILE)
    apply_umask(folder)
    model.peft_config["default"].save_pretrained(os.fspath(folder))


def load_router(folder: Path) -> dict[str, Tensor]:
    """The router's state of an adapter checkpoint.

    Raises:
        FileNotFoundError: the folder is no adapter checkpoint.
    """
    path = Path(folder) / ROUTER_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {folder} is not an adapter checkpoint of this recipe")
    return load_file(path)


def check_adapter_checkpoint(folder: Path) -> None:
    """Read the config and the tables of contents, not the tensors: enough to see a file that is missing or cut short.

    Raises:
        ValueError: names the file.
    """
    mend = "name another checkpoint (--step), or train this step again"
    for name in (ADAPTER_FILE, ROUTER_FILE):
        with reading(folder / name, mend), safe_open(folder / name, "pt") as file:
            file.keys()
    with reading(folder / "adapter_config.json", mend):
        PeftConfig.from_pretrained(os.fspath(folder))
