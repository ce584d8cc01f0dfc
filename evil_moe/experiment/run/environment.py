"""Environment variables of a run's processes."""

from __future__ import annotations

import os
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from evil_moe.experiment.run.folder import run_id


def driver_environment(config: DictConfig) -> dict[str, str]:
    """Variables of the Ray driver and, through its runtime_env, of every worker."""
    variables = OmegaConf.select(config, "ray_kwargs.ray_init.runtime_env.env_vars", default=None) or {}
    environment = {key: str(value) for key, value in variables.items()}
    environment |= {
        "WANDB_DIR": config.evil_moe.run_dir,
        "WANDB_SILENT": "true",
        "RAY_DEDUP_LOGS": "0",  # two steps may print the same line
        "RAY_USAGE_STATS_ENABLED": "0",
        "HYDRA_FULL_ERROR": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if (name := run_id(Path(config.evil_moe.run_dir))) is not None:
        # A run that was stopped goes on as the same one there. (`wandb sync --append` where it logged offline.)
        environment |= {"WANDB_RUN_ID": name, "WANDB_RESUME": "allow"}
    netrc = Path.home() / ".netrc"
    logged_in = "WANDB_API_KEY" in os.environ or (netrc.is_file() and "api.wandb.ai" in netrc.read_text())
    if "WANDB_MODE" not in os.environ and not logged_in:
        environment["WANDB_MODE"] = "offline"
    return environment
