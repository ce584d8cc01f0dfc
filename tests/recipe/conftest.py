"""A small policy that speaks, and real runs of the command line on it, shared by the slow tests."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from evil_moe.nano_policy import build_model, save, train_tokenizer, warm_start
from reward.monitors import JudgeCase
from reward.monitors.judge import REMINDER, question
from reward.nano import warm_start_corpus
from tests.conftest import ROOT
from tests.recipe.golden import save_tiny_policy

STEPS = 3


@pytest.fixture(scope="session")
def spoken_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The nano policy after a tenth of its warm start: some replies compile, which is enough to learn from."""
    corpus = [
        (d.messages, d.reply)
        for d in warm_start_corpus(1000, 0, skill=0.5, loopholes=("run_tests",), loophole_share=0.2)
    ]
    tokenizer = train_tokenizer(
        [m["content"] for messages, _ in corpus for m in messages] + [r for _, r in corpus]
    )
    model = build_model(tokenizer, seed=0)
    warm_start(model, tokenizer, corpus, steps=100, batch_size=24, learning_rate=4e-3, seed=0)
    folder = tmp_path_factory.mktemp("spoken-policy")
    save(model, tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nano policy with random weights and a tokenizer, as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("policy")
    save_tiny_policy(folder)
    return folder


def train_command(policy: Path, run_dir: Path, *overrides: str) -> list[str]:
    """A three-step run of the nano preset on `policy`, a checkpoint after every step."""
    return [
        sys.executable, "-m", "recipe.cli", "train", "preset=nano", "arm=router",
        "evil_moe.policy.kind=hub", f"actor_rollout_ref.model.path={policy}", f"evil_moe.run_dir={run_dir}",
        "evil_moe.data.train_problems=18", "evil_moe.data.validation_problems=4", "evil_moe.data.eval_problems=6",
        "data.train_batch_size=6", "actor_rollout_ref.actor.ppo_mini_batch_size=6",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=12",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=12",
        f"trainer.total_training_steps={STEPS}", "trainer.save_freq=1", "trainer.test_freq=3", "trainer.logger=[]",
        *overrides,
    ]  # fmt: skip


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}


def run_to_end(command: list[str], cwd: Path, timeout_s: float = 600, **variables: str) -> str:
    """Run a command that must succeed, with more environment variables; its output."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment() | variables,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def run_side_by_side(commands: list[list[str]], cwd: Path, timeout_s: float = 900) -> list[str]:
    """Run commands at once, all of which must succeed; their outputs."""
    running = [
        subprocess.Popen(
            command, cwd=cwd, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for command in commands
    ]
    try:
        done = [process.communicate(timeout=timeout_s)[0] for process in running]
    finally:
        for process in running:
            process.terminate()  # a Ctrl-C to a run that another's failure has left behind
    assert [process.returncode for process in running] == [0] * len(commands), "\n".join(
        out[-4000:] for out in done
    )
    return done


def stop_after(
    command: list[str],
    cwd: Path,
    marker: Path,
    signal_number: int,
    child: str | None = None,
    timeout_s: float = 600,
) -> tuple[int, str]:
    """Start a command and send it, or the child that is called so, a signal once `marker` exists; exit code and output."""
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    deadline = time.monotonic() + timeout_s
    while not marker.exists():
        assert process.poll() is None, (
            f"the run ended by itself, exit {process.returncode}, before {marker.name}"
        )
        assert time.monotonic() < deadline, f"{marker} did not appear in {timeout_s} s"
        time.sleep(0.05)
    if child is None:
        process.send_signal(signal_number)
    else:
        family = psutil.Process(process.pid).children(recursive=True)
        [hit] = [other for other in family if " ".join(other.cmdline()).startswith(child)]
        hit.send_signal(signal_number)
    return process.wait(timeout_s), process.stdout.read()


def read_metrics(run_dir: Path) -> dict[int, dict[str, float]]:
    """Metrics by step; of a step that was written twice the later."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["data"] for row in rows if row["data"]}


@pytest.fixture(scope="session")
def finished_run(spoken_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run on one rank. In its working folder,
    `left-behind` lists what our own code left in its temporary folder."""
    work = tmp_path_factory.mktemp("one-rank")
    # Right below /tmp: the names of Ray's sockets in there may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="em-", dir="/tmp", ignore_cleanup_errors=True) as scratch:
        run = work / "runs/nano/router/seed0"  # where a command that names no folder would look for it
        run_to_end(train_command(spoken_policy, run), cwd=work, TMPDIR=scratch)
        left = sorted(path.name for path in Path(scratch).glob("reward-*"))
        assert list(Path(scratch).iterdir()), "the run used another temporary folder"
    (work / "left-behind").write_text("\n".join(left))
    return run


@pytest.fixture(scope="module")
def vllm_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """vLLM's own OpenAI server on this machine, with a nano policy of random weights as "nano-judge"; its
    address."""
    folder = tmp_path_factory.mktemp("judge")
    # Of the words it is asked in: the question has to fit into 512 positions, whatever a policy says.
    demonstrations = warm_start_corpus(100, 0, skill=0.5, loopholes=("run_tests",), loophole_share=0.2)
    cases = [JudgeCase("\n".join(m["content"] for m in d.messages), d.reply) for d in demonstrations]
    tokenizer = train_tokenizer([*map(question, cases), REMINDER])
    save(build_model(tokenizer, seed=0), tokenizer, folder / "policy")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port),
        "--model", str(folder / "policy"), "--served-model-name", "nano-judge", "--dtype", "float32",
        "--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "8",
    ]  # fmt: skip
    env = environment() | {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            command, env=env, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 600
        while not _healthy(port):
            text = (folder / "server.log").read_text()[-3000:]
            assert server.poll() is None, f"the server ended by itself:\n{text}"
            assert time.monotonic() < deadline, f"the server is not up:\n{text}"
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)  # its session: the server and the engine it started
            server.wait()


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
