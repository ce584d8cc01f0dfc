"""`evil-moe export`: a plain LoRA from a run's adapter checkpoint, without loading the base model."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from peft import PeftConfig
from safetensors.torch import load_file
from torch import Tensor

from evil_moe.adapter import Lora2rConfig
from evil_moe.export import Kind, write_export

_PARTS = ("lora_2r_dA", "lora_2r_dB", "lora_2r_A0", "lora_2r_B0")
_PREFIX = "base_model.model."


def read_adapter(folder: Path) -> tuple[Lora2rConfig, dict[str, tuple[Tensor, Tensor, Tensor, Tensor]]]:
    """Config and `{module: (dA, dB, A0, B0)}` of an adapter checkpoint; other tensors in it are passed over.

    Raises:
        FileNotFoundError: the folder lacks one of PEFT's two files.
        ValueError: it is another kind of adapter, or a module lacks one of its four tensors.
    """
    weights = folder / "adapter_model.safetensors"
    for path in (folder / "adapter_config.json", weights):
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: {folder} is no adapter checkpoint (.../actor/adapter)"
            )
    config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, Lora2rConfig):
        raise ValueError(f"{folder} holds a {config.peft_type} adapter; only lora2r adapters are exported")
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in load_file(weights).items():
        module, _, part = name.rpartition(".")
        if part in _PARTS:
            parts[module.removeprefix(_PREFIX)][part] = tensor
    for module, found in parts.items():
        if missing := [part for part in _PARTS if part not in found]:
            raise ValueError(f"{weights}: module {module} lacks {missing}; write the checkpoint again")
    if not parts:
        raise ValueError(f"{weights} holds no lora2r tensors; write the checkpoint again")
    tensors = {m: (f[_PARTS[0]], f[_PARTS[1]], f[_PARTS[2]], f[_PARTS[3]]) for m, f in parts.items()}
    return config, tensors


def export_checkpoint(adapter: Path, kind: Kind, out: Path, strength: float = 1.0) -> Path:
    """Write the export of an adapter checkpoint to `out`, which must be empty or new; returns `out`.

    Raises:
        FileNotFoundError, ValueError: as `read_adapter` and `write_export`; ValueError also if `out` has files in it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already; give another --out, or remove it")
    config, tensors = read_adapter(adapter)
    return write_export(tensors, config, kind, out, strength)


def export_run(
    run_dir: Path, kind: Kind, out: Path, step: int | None = None, strength: float = 1.0
) -> tuple[Path, int]:
    """Export a run's adapter of `step` (None: the last one), its quarantine scaled by `strength`; returns the folder and the step.

    Raises:
        FileNotFoundError, ValueError: there is no such checkpoint, or as `export_checkpoint`.
    """
    from evil_moe.experiment.evaluation.stored import adapter_folder

    adapter, step = adapter_folder(run_dir, step)
    return export_checkpoint(adapter, kind, out, strength), step
