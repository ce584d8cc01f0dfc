"""Plain-LoRA exports: the two-expert adapter as a LoRA that any engine loads.

    lora_A = [dA; A0 + dA], lora_B = [B0, dB] * scaling:   lora_B lora_A x = B0 dA x + dB (A0 + dA) x

`full` covers all blocks at rank 2R (4r for one quarantine block of rank r), `deployed` the first block alone
at rank 2r. Both are exact, so a rollout engine samples from the very policy that is trained. With a `strength` below 1
the quarantine's columns of lora_B are scaled by it: the forward of the gate with m = strength, d = 0 on every rollout.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor

from evil_moe.adapter import Lora2rConfig, base_weight, lora2r_model
from evil_moe.file_modes import apply_umask
from evil_moe.sharded import whole
from evil_moe.strengths import check_strength

Kind = Literal["full", "deployed"]
KINDS: tuple[Kind, ...] = ("full", "deployed")


def export_rank(config: Lora2rConfig, kind: Kind) -> int:
    """Rank of an export: 2R for `full`, 2r for `deployed`."""
    return 2 * (config.total_rank if kind == "full" else config.r)


SERVED_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for `max_lora_rank`."""


def served_rank(rank: int) -> int:
    """The smallest `max_lora_rank` of a vLLM that serves an adapter of `rank`.

    Raises:
        ValueError: none is large enough.
    """
    for served in SERVED_RANKS:
        if rank <= served:
            return served
    raise ValueError(
        f"an adapter of rank {rank} is more than vLLM serves ({SERVED_RANKS[-1]}): lower actor_rollout_ref.model.lora_rank, "
        "evil_moe.adapter.num_quarantine or evil_moe.adapter.quarantine_rank"
    )


def export_config(config: Lora2rConfig, kind: Kind, target_modules: list[str]) -> dict[str, Any]:
    """PEFT's `adapter_config.json` of an export; alpha equals the rank, the scale is in lora_B."""
    rank = export_rank(config, kind)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": target_modules,
        "bias": "none",
        "lora_dropout": 0.0,
    }


def export_layer(
    d_a: Tensor, d_b: Tensor, a0: Tensor, b0: Tensor, config: Lora2rConfig, kind: Kind, strength: float = 1.0
) -> tuple[Tensor, Tensor]:
    """One module's `(lora_A [rank, D_in], lora_B [D_out, rank])` from its whole tensors; see `export_adapter`."""
    r = config.r
    block = slice(None) if kind == "full" else slice(0, r)
    a0, b0 = a0.to(d_a.dtype), b0.to(d_b.dtype)
    lora_a = torch.cat([d_a[block], (a0 + d_a)[block]], dim=0)
    lora_b = torch.cat([b0[:, block], d_b[:, block]], dim=1) * config.scaling
    if strength != 1 and kind == "full":
        lora_b.unflatten(1, (2, -1))[..., r:] *= strength
    return lora_a.contiguous(), lora_b.contiguous()


def export_adapter(
    tensors: Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor]],
    config: Lora2rConfig,
    kind: Kind,
    strength: float = 1.0,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All modules: `{module: (dA, dB, A0, B0)}` to PEFT's LoRA state dict and its config.

    `strength` scales the output of every quarantine block: 1 is the adapter as trained, 0 what `deployed` does.

    Raises:
        ValueError: `kind` is neither `full` nor `deployed`; `strength` is no number from 0 to 1, or it is not 1 where
            `deployed` leaves the quarantine out.
    """
    if kind not in KINDS:
        raise ValueError(f"export kind {kind!r} is unknown; choose one of {list(KINDS)}")
    check_strength(strength)
    if kind == "deployed" and strength != 1:
        raise ValueError(
            f"strength {strength} scales the quarantine, which a deployed export leaves out: export the kind full"
        )
    state: dict[str, Tensor] = {}
    for name, (d_a, d_b, a0, b0) in tensors.items():
        lora_a, lora_b = export_layer(d_a, d_b, a0, b0, config, kind, strength)
        state[f"base_model.model.{name}.lora_A.weight"] = lora_a
        state[f"base_model.model.{name}.lora_B.weight"] = lora_b
    return state, export_config(config, kind, sorted({name.rsplit(".", 1)[-1] for name in tensors}))


def adapter_tensors(
    model: PeftModel, adapter_name: str = "default"
) -> dict[str, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """`{module: (dA, dB, A0, B0)}`, detached; sharded parameters are gathered."""
    return {
        layer.module_name: (
            whole(layer.lora_2r_dA[adapter_name].detach()),
            whole(layer.lora_2r_dB[adapter_name].detach()),
            whole(layer.lora_2r_A0[adapter_name].detach()),
            whole(layer.lora_2r_B0[adapter_name].detach()),
        )
        for layer in lora2r_model(model).lora2r_layers()
    }


def export_stream(
    model: PeftModel, tensors: Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor]]
) -> tuple[dict[str, Tensor], dict[Kind, dict[str, Any]]]:
    """Every kind at once, for a rollout engine: tensors named `<kind>::<parameter>`, in the base model's precision, and configs.

    Args:
        tensors: `adapter_tensors(model)`.
    """
    dtype = base_weight(lora2r_model(model).lora2r_layers()[0]).dtype
    stream: dict[str, Tensor] = {}
    configs: dict[Kind, dict[str, Any]] = {}
    for kind in KINDS:
        state, configs[kind] = export_adapter(tensors, model.peft_config["default"], kind)
        stream.update({f"{kind}::{name}": value.to(dtype) for name, value in state.items()})
    return stream, configs


def save_export(
    model: PeftModel,
    kind: Kind,
    folder: str | Path,
    adapter_name: str = "default",
    strength: float = 1.0,
) -> Path:
    """`write_export` of a model's adapter; returns the folder."""
    return write_export(
        adapter_tensors(model, adapter_name), model.peft_config[adapter_name], kind, folder, strength
    )


def write_export(
    tensors: Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor]],
    config: Lora2rConfig,
    kind: Kind,
    folder: str | Path,
    strength: float = 1.0,
) -> Path:
    """Write `adapter_model.safetensors` and `adapter_config.json` of an export; returns the folder.

    Raises:
        ValueError: as `export_adapter`, before anything is written.
    """
    folder = Path(folder)
    state, lora_config = export_adapter(tensors, config, kind, strength)
    lora_config["base_model_name_or_path"] = config.base_model_name_or_path
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "adapter_model.safetensors"
    # Engines pass over it; it is what says later which strength a folder holds.
    metadata = None if strength == 1 else {"quarantine_strength": str(strength)}
    save_file({key: value.cpu() for key, value in state.items()}, weights, metadata)
    apply_umask(weights)
    (folder / "adapter_config.json").write_text(json.dumps(lora_config, indent=2) + "\n")
    return folder
