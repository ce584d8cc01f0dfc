"""Which Ray a run would use, and whether it can: the looks of `ray.init`, without its minutes."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from evil_moe.experiment.doctor.finding import FAIL, OK, WARN, Finding

RAY_TIMEOUT_S = 3.0
KEYS = "ray_kwargs.ray_init"
OWN_RAY = f"+{KEYS}.address=local"


def find_cluster(config: DictConfig) -> tuple[str, str] | None:
    """Address of the cluster that `ray.init` would join, and who names it, in Ray's order; None where it starts its own."""
    named = OmegaConf.select(config, f"{KEYS}.address")
    there = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "ray_current_cluster"
    if named not in (None, "auto"):
        found = str(named), f"{KEYS}.address"
    elif address := os.environ.get("RAY_ADDRESS"):
        found = address, "RAY_ADDRESS"
    elif there.is_file():  # written by `ray start`
        found = there.read_text().strip(), str(there)
    else:
        found = ("auto", f"{KEYS}.address") if named else ("local", "")
    return None if found[0] == "local" else found


def check_ray(config: DictConfig) -> Finding:
    """Whether the cluster that the run would join answers, and lets itself be joined with this config."""
    cluster = find_cluster(config)
    if cluster is None:
        if int(config.trainer.nnodes) > 1:
            text = f"trainer.nnodes={config.trainer.nnodes}, and no cluster is named"
            mend = f"start one (ray start --head, and --address=HEAD:6379 on the others) and add +{KEYS}.address=auto"
            return Finding("ray", FAIL, text, mend)
        return Finding("ray", OK, "started on this machine")
    address, source = cluster
    given = [name for name in ("num_cpus", "num_gpus") if config.ray_kwargs.ray_init.get(name) is not None]
    if given:
        text = f"{source} names the cluster {address}, which takes no {' and '.join(f'{KEYS}.{name}' for name in given)}"
        without = " ".join(f"{KEYS}.{name}=null" for name in given)
        asked = " ".join(f"--{name.replace('_', '-')}={config.ray_kwargs.ray_init[name]}" for name in given)
        mend = f"have Ray started for this run alone ({OWN_RAY}), or add {without} and start the cluster with {asked}"
        return Finding("ray", FAIL, text, mend)
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return Finding("ray", WARN, f"address {address!r} is not host:port", "cannot be tried from here")
    try:
        socket.create_connection((host, int(port)), timeout=RAY_TIMEOUT_S).close()
    except OSError as error:
        mend = f"start the cluster (ray start --head), or have Ray started for this run alone ({OWN_RAY})"
        return Finding("ray", FAIL, f"nothing answers at {address}, named by {source} ({error})", mend)
    return Finding("ray", OK, f"{address} answers")
