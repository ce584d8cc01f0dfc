"""verl's checkpoints for resuming, which are sharded by rank."""

from __future__ import annotations

from pathlib import Path


def check_same_ranks(folder: Path, rank: int, ranks: int) -> None:
    """Raises ValueError: the checkpoint was written by another number of ranks, or is not there."""
    if (folder / f"model_world_size_{ranks}_rank_{rank}.pt").is_file():
        return
    found = sorted({p.name.split("_")[3] for p in folder.glob("model_world_size_*_rank_*.pt")})
    written = f"was written by {', '.join(found)} rank(s)" if found else "holds no model"
    raise ValueError(
        f"checkpoint {folder} {written}, this run has {ranks}: resume with the same number of ranks "
        "(trainer.n_gpus_per_node x trainer.nnodes), or start a new run_dir"
    )
