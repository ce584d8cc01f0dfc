"""What a person reads when verl, Ray or vLLM failed: the key that mends it, and nothing of an earlier start."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evil_moe.experiment.run.console import divert_output, report_failure

CACHE = "VLLM_CPU_KVCACHE_SPACE"
UTILISATION = "actor_rollout_ref.rollout.gpu_memory_utilization"


@pytest.mark.parametrize(
    ("error", "log", "mend"),
    [
        ("ValueError: No available memory for the cache blocks. Try increasing it", "", f"raise {UTILISATION}"),
        ("4.5 GiB KV cache is needed, which is larger than the available KV cache memory", "", f"raise {UTILISATION}"),
        ("Engine core initialization failed", "No available memory for the cache blocks", CACHE),
        (
            "Free memory on device (3.1/79.2 GiB) on startup is less than desired GPU memory utilization (0.9, 71 GiB)",
            "",
            f"lower {UTILISATION}",
        ),
        ("Available memory on node 0 (1/8 GiB) on kv cache allocation is less than requested memory for kv", "", CACHE),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "", "ppo_max_token_len_per_gpu"),
        ("Task was killed due to the node running low on memory.", "", "trainer.n_gpus_per_node"),
        ("ActorDiedError: The actor died unexpectedly before finishing this task.", "", "dmesg"),
        ("ActorDiedError: The actor died", "torch.OutOfMemoryError: CUDA out of memory", "ppo_micro_batch_size"),
        ("Failed to connect to Ray cluster at 10.0.0.1:6379", "", "ray start --head"),
        ("Could not find any running Ray instance.", "", "address=local"),
        ("When connecting to an existing cluster, num_cpus and num_gpus must not be provided.", "", "set both to null"),
        ("OSError: [Errno 28] No space left on device", "", "make room"),
    ],
)  # fmt: skip
def test_known_failures_name_the_key_that_mends_them(
    error: str, log: str, mend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train.log"
    path.write_text(f"a line\n{log}\nthe last line\n")
    assert report_failure("training", RuntimeError(f"first line\n{error}"), path, "All is saved.") == 1
    said = capsys.readouterr().err
    assert f"evil-moe: error: training failed: RuntimeError: {error}\n" in said
    (line,) = [line for line in said.splitlines() if line.startswith("To mend it: ")]
    assert mend in line
    assert "the last line\n" in said and said.endswith("train.log. All is saved.\n")


def test_an_unknown_failure_gets_no_mend_and_an_earlier_start_none_of_its_own(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train.log"
    for line in (b"CUDA out of memory\n", b"all is well\n"):
        with divert_output(path, verbose=False):
            os.write(1, line)  # as another language would
    report_failure("training", RuntimeError("unheard of"), path, "")
    said = capfd.readouterr().err
    assert "To mend it" not in said and "all is well" in said and "CUDA" not in said
    assert "CUDA out of memory" in path.read_text()
