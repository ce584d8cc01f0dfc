"""The weights' way to vLLM, both ends real: whole, refused where it is another run's, and never waiting for ever."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from verl.plugin.platform import platform_manager
from verl.utils.device import is_support_ipc

from recipe.actor.worker import _ROLLOUT_REGISTRY
from recipe.platform.cpu import PlatformCPU
from recipe.rollout.weight_sync import (
    TIMEOUT_S,
    TOKEN,
    EvilMoEServerAdapter,
    RunWeightReceiver,
    RunWeightSender,
    install_receiver,
    run_token,
)
from recipe.trainer.task_runner import refuse_shared_ray

WEIGHTS = {f"full::layer{i}.lora_A": torch.arange(40_000.0) + i for i in range(20)}  # three buckets of 1 MiB


def nobody() -> None:
    """The other side says nothing."""


def sender(
    handle: str, token: str, timeout_s: float = 20.0, look: Callable[[], None] = nobody
) -> RunWeightSender:
    return RunWeightSender(handle, 1, use_shm=True, token=token, timeout_s=timeout_s, look=look)


class Receiver(threading.Thread):
    """The receiving end in a thread: `got` the tensors, or `error`."""

    def __init__(self, handle: str, fails_at: int = -1) -> None:
        super().__init__(daemon=True)
        self.handle, self.fails_at = handle, fails_at
        self.got: dict[str, torch.Tensor] = {}
        self.buckets, self.error = 0, None
        self.start()

    def run(self) -> None:
        def take(weights: list[tuple[str, torch.Tensor]], is_last: bool) -> None:
            if self.buckets == self.fails_at:
                raise RuntimeError("vLLM did not load the full adapter")
            self.buckets += 1
            self.got |= {name: tensor.clone() for name, tensor in weights}

        try:
            RunWeightReceiver(self.handle, torch.device("cpu"), use_shm=True).receive_weights(take)
        except RuntimeError as error:
            self.error = error


@pytest.fixture
def handle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(platform_manager, "_current_platform", PlatformCPU())
    assert not is_support_ipc()
    monkeypatch.setenv(TOKEN, "01000000-ours")
    monkeypatch.setenv(TIMEOUT_S, "20")
    return f"ipc://{tmp_path}/sync.sock"


def test_all_weights_arrive_in_buckets(handle: str) -> None:
    (Path(handle[6:])).touch()  # a killed run's socket file is no obstacle
    receiver = Receiver(handle)
    asyncio.run(sender(handle, "01000000-ours").async_send_weights(iter(WEIGHTS.items())))
    receiver.join(20)
    assert receiver.error is None and receiver.buckets > 1 and receiver.got.keys() == WEIGHTS.keys()
    assert all(torch.equal(receiver.got[name], value) for name, value in WEIGHTS.items())


def test_weights_of_another_run_are_refused_at_both_ends(handle: str) -> None:
    receiver = Receiver(handle)
    with pytest.raises(RuntimeError, match=r"run '01000000-ours' met those of run '01000000-theirs'"):
        asyncio.run(sender(handle, "01000000-theirs").async_send_weights(iter(WEIGHTS.items())))
    receiver.join(20)
    assert "neither was loaded" in str(receiver.error) and not receiver.got


@pytest.mark.parametrize("side", ["sender", "receiver"])
def test_a_wait_for_nobody_ends(handle: str, side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TIMEOUT_S, "0.2")
    started = time.monotonic()
    with pytest.raises(
        RuntimeError, match=r"within 0\.2 s no .*raise evil_moe\.rollout\.weight_sync_timeout"
    ):
        if side == "sender":
            asyncio.run(sender(handle, "01000000-ours", 0.2).async_send_weights(iter(WEIGHTS.items())))
        else:
            RunWeightReceiver(handle, torch.device("cpu"), use_shm=True).receive_weights(print)
    assert time.monotonic() - started < 10


def test_a_receiver_that_fails_ends_the_senders_wait_with_its_error(handle: str) -> None:
    receiver = Receiver(handle, fails_at=1)

    def look() -> None:  # as the adapter looks at the call in vLLM
        if receiver.error is not None:
            raise receiver.error

    with pytest.raises(RuntimeError, match="vLLM did not load the full adapter"):
        asyncio.run(sender(handle, "01000000-ours", 60.0, look).async_send_weights(iter(WEIGHTS.items())))


def test_verl_builds_our_ends() -> None:
    from verl.workers.rollout.base import get_rollout_class
    from verl.workers.rollout.vllm_rollout import bucketed_weight_transfer

    assert _ROLLOUT_REGISTRY["vllm", "async"] == "recipe.rollout.weight_sync.EvilMoEServerAdapter"
    assert get_rollout_class("vllm", "async") is EvilMoEServerAdapter
    install_receiver()
    assert bucketed_weight_transfer.BucketedWeightReceiver is RunWeightReceiver


@pytest.mark.slow
def test_each_ray_has_a_token_and_takes_one_job() -> None:
    class Controller:
        pass

    tokens = set[str]()
    for _ in range(2):  # a Ray each, as two runs on one machine have
        ray.shutdown()
        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
        tokens.add(run_token())
    assert len(tokens) == 2 and {token.split("-")[0] for token in tokens} == {"01000000"}, tokens
    try:
        refuse_shared_ray()
        name: Any = {"name": "TransferQueueController", "namespace": "transfer_queue"}
        controller = ray.remote(Controller).options(num_cpus=0, **name).remote()
        ray.get(controller.__ray_ready__.remote())
        with pytest.raises(RuntimeError, match=r"another verl job trains on this Ray .*give this run a Ray"):
            refuse_shared_ray()
    finally:
        ray.shutdown()
