"""What a person sees: marked lines on the terminal, everything in a log, and a failure with its place and its mend."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRESS_PREFIX = "[evil-moe]"
INTERRUPTED = 130
"""Exit code of a command that was stopped."""
_START = "==== evil-moe: log of the start at "
_TAIL = 25

_ENVIRONMENT = "ray_kwargs.ray_init.runtime_env.env_vars"
_LESS_TO_UPDATE = (
    "lower actor_rollout_ref.actor.ppo_max_token_len_per_gpu (with use_dynamic_bsz) or "
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu"
)
_LESS_ON_MACHINE = (
    "close other programs, or use fewer ranks (trainer.n_gpus_per_node), fewer workers (reward.num_workers, "
    f"evil_moe.reward.workers) or a smaller KV cache ({_ENVIRONMENT}.VLLM_CPU_KVCACHE_SPACE on a CPU)"
)
KNOWN_FAILURES: tuple[tuple[str, str], ...] = (
    (
        r"Free memory on device.{0,200}less than desired|less than requested memory for kv",
        "vLLM asks for more memory than is free: end what else runs there, or lower "
        f"actor_rollout_ref.rollout.gpu_memory_utilization (on a CPU {_ENVIRONMENT}.VLLM_CPU_KVCACHE_SPACE, in GiB)",
    ),
    (
        r"No available memory for the cache blocks|larger than the available KV cache|No available memory for KV cache",
        "vLLM has too little memory left for its KV cache: raise actor_rollout_ref.rollout.gpu_memory_utilization (on a CPU "
        f"{_ENVIRONMENT}.VLLM_CPU_KVCACHE_SPACE, in GiB), or lower actor_rollout_ref.rollout.max_model_len",
    ),
    (
        r"running low on memory|ray\.exceptions\.OutOfMemoryError",
        f"Ray ended a process because the machine ran out of memory: {_LESS_ON_MACHINE}",
    ),
    (
        r"CUDA out of memory|torch\.(cuda\.)?OutOfMemoryError",
        f"a GPU ran out of memory: {_LESS_TO_UPDATE}, or actor_rollout_ref.rollout.gpu_memory_utilization",
    ),
    (
        r"No space left on device",
        "make room on the disk of the run's folder, and on those of /tmp/ray and /dev/shm",
    ),
    (
        r"Could not find any running Ray instance|Failed to connect to Ray cluster|ConnectionError.{0,80}\bRay\b",
        "no Ray cluster answers: start it (ray start --head), or have one started for this run alone "
        "(+ray_kwargs.ray_init.address=local)",
    ),
    (
        r"existing cluster, num_cpus and num_gpus must not be provided",
        "a cluster that is there takes no ray_kwargs.ray_init.num_cpus and num_gpus: set both to null, or have one started "
        "for this run alone (+ray_kwargs.ray_init.address=local)",
    ),
    (
        r"the sandbox (failed|was not replaced)",
        "the sandbox does not work as it should here: `evil-moe doctor` probes it, and evil_moe.reward.max_faults says how many "
        "failures of it a run may have",
    ),
    # Last, and of the error alone: processes also die because another one failed, which the log tells.
    (
        r"ActorDiedError|actor died unexpectedly|WORKER_DIED|worker process has died",
        "a process of the run was killed from outside; where the kernel did it (dmesg | grep -i oom), memory was short: "
        f"{_LESS_ON_MACHINE}",
    ),
)
"""What Ray, vLLM and torch say when they cannot go on, and the keys that mend it; the first that fits is meant."""


def say(line: str) -> None:
    """A line for people; it passes `divert_output`."""
    print(f"{PROGRESS_PREFIX} {line}", flush=True)


def mend_for(error: str, log: str = "") -> str | None:
    """The mend of a known failure, looked for in the error and then in the log, which may tell of the first cause."""
    *causes, death = KNOWN_FAILURES
    for text, failures in ((error, causes), (log, causes), (error, [death])):
        for pattern, mend in failures:
            if re.search(pattern, text, re.DOTALL):
                return mend
    return None


def report_failure(what: str, error: Exception, log_path: Path, saved: str) -> int:
    """The end of the log, the error in one line, its mend if it is a known one, where the rest is, and what is left of the
    work; returns 1."""
    log = log_path.read_text(errors="replace").rpartition(_START)[2]
    reason = str(error).strip().splitlines() or [""]
    mend = mend_for(f"{type(error).__name__}: {error}", log)
    print("\n".join(log.splitlines()[-_TAIL:]), file=sys.stderr)
    print(f"\nevil-moe: error: {what} failed: {type(error).__name__}: {reason[-1]}", file=sys.stderr)
    if mend:
        print(f"To mend it: {mend}.", file=sys.stderr)
    print(
        f"The last lines are above, all of them in {os.path.relpath(log_path)}. {saved}",
        file=sys.stderr,
    )
    return 1


@contextmanager
def divert_output(log_path: Path, *, verbose: bool) -> Iterator[None]:
    """Send what this process and its children print to `log_path`, and to the terminal what is meant for people.

    On the level of file descriptors, because Ray and vLLM write from other languages and other processes.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    read_end, write_end = os.pipe()

    def pump() -> None:
        with os.fdopen(read_end, errors="replace") as lines, log_path.open("a") as log:
            log.write(f"{_START}{time.strftime('%Y-%m-%dT%H:%M:%S%z')}\n")
            for line in lines:
                log.write(line)
                log.flush()
                at = 0 if verbose else line.find(PROGRESS_PREFIX)
                if at >= 0:
                    os.write(saved[0], line[at:].encode())

    thread = threading.Thread(target=pump, daemon=True)
    thread.start()
    os.dup2(write_end, 1)
    os.dup2(write_end, 2)
    os.close(write_end)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        thread.join(timeout=5)  # a child that outlives the run may hold the pipe open
