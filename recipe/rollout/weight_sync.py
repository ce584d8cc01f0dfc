"""The way of the weights from the actor to vLLM: verl's bucketed transfer, for one run only and never for ever.

verl 0.9.1 names the socket by Ray's job id, and the first job of every local Ray is 01000000: two runs on one machine
meet at one path, remove each other's socket, and may load each other's adapters. Both ends also wait without a limit, so
a receiver that failed leaves its sender waiting. Here the path carries a token of the run, the first message carries it
again, and every wait ends: with the other side's error, or past `evil_moe.rollout.weight_sync_timeout_s`.

verl has no setting for the receiver's class, so `install_receiver` puts ours in its place. Remove this file when verl's
socket is the run's own and its waits are bounded.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import ray
import torch
import zmq
from verl.workers.rollout.vllm_rollout import bucketed_weight_transfer
from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import (
    BucketedWeightReceiver,
    BucketedWeightSender,
)
from verl.workers.rollout.vllm_rollout.vllm_rollout import ServerAdapter

from evil_moe.experiment.settings import settings_from

TOKEN = "VERL_RAY_JOB_ID"
"""The variable from which verl's receiver takes its part of the path; ours holds the run's token."""
TIMEOUT_S = "EVIL_MOE_WEIGHT_SYNC_TIMEOUT_S"
_LOOK_S = 1.0  # between looks at the other side while there is nothing to read


def run_token() -> str:
    """What no other run on this machine has: Ray's job, and its node, whose id is drawn anew by every Ray."""
    context = ray.get_runtime_context()
    return f"{context.get_job_id()}-{context.get_node_id()[:16]}"


def tell_receiver(settings: Any) -> None:
    """Set the variables that a vLLM worker, in this process or in a child, reads token and time limit from.

    settings: the `evil_moe` node of the config.
    """
    os.environ[TOKEN] = run_token()
    os.environ[TIMEOUT_S] = str(settings_from(settings).rollout.weight_sync_timeout_s)


class _PatientSocket(zmq.Socket):
    """A socket whose waits end.

    Raises:
        RuntimeError: nothing came, or could be sent, within `timeout_s` seconds; or what `look` raises of the other side.
    """

    # pyzmq takes attributes that a class does not declare for options of the socket.
    timeout_s: float = 0.0
    look: Callable[[], None] | None = None

    def _wait(self, event: int) -> None:
        deadline = time.monotonic() + self.timeout_s
        while not self.poll(int(1000 * min(_LOOK_S, self.timeout_s)), event):
            if self.look is not None:
                self.look()
            if time.monotonic() >= deadline:
                doing = "an answer came" if event == zmq.POLLIN else "the other side was there"
                raise RuntimeError(
                    f"the weights' way to vLLM stands still: within {self.timeout_s:g} s no {doing}; train.log says what the "
                    "other side did last. Where it only is slow, raise evil_moe.rollout.weight_sync_timeout_s"
                )

    def send(self, *args: Any, **kwargs: Any) -> Any:
        self._wait(zmq.POLLOUT)
        return super().send(*args, **kwargs)

    def recv(self, *args: Any, **kwargs: Any) -> Any:
        self._wait(zmq.POLLIN)
        return super().recv(*args, **kwargs)


def _socket(context: zmq.Context, kind: int, timeout_s: float) -> _PatientSocket:
    socket = context.socket(kind, socket_class=_PatientSocket)
    socket.timeout_s = timeout_s
    socket.linger = 0  # a message that nobody takes must not hold up the process's end
    return socket


def _refuse_foreign(other: bytes, token: str) -> None:
    if other != token.encode():
        raise RuntimeError(
            f"weights of run {other.decode(errors='replace')!r} met those of run {token!r} at one socket, and neither "
            "was loaded: two runs share the folder /tmp and a token, which Ray should have drawn apart; start them again"
        )


class RunWeightSender(BucketedWeightSender):
    """verl's sender; the first message is the run's token, and it looks at its receiver while it waits."""

    def __init__(
        self, *args: Any, token: str, timeout_s: float, look: Callable[[], None], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._token, self._timeout_s, self._look = token, timeout_s, look

    def _init_socket(self) -> None:
        self.socket = _socket(self.zmq_context, zmq.REQ, self._timeout_s)
        self.socket.look = self._look
        self.socket.bind(self.zmq_handle)  # replaces a socket file that a killed run has left
        self.socket.send(self._token.encode())
        _refuse_foreign(self.socket.recv(), self._token)


class RunWeightReceiver(BucketedWeightReceiver):
    """verl's receiver; weights of another run are refused."""

    def _init_socket(self) -> None:
        token = os.environ[TOKEN]
        self.socket = _socket(self.zmq_context, zmq.REP, float(os.environ[TIMEOUT_S]))
        self.socket.connect(self.zmq_handle)
        other = self.socket.recv()
        self.socket.send(token.encode())
        _refuse_foreign(other, token)

    def _cleanup(self) -> None:
        failed = sys.exc_info()[1] is not None
        try:
            super()._cleanup()
        except BufferError:
            # The failed bucket still looks into the shared memory: the failure is what there is to tell.
            if not failed:
                raise
            self.socket.close()


def install_receiver() -> None:
    """Make `update_weights_from_ipc` of verl's vLLM worker, which names its receiver in the middle, take ours."""
    bucketed_weight_transfer.BucketedWeightReceiver = RunWeightReceiver


class EvilMoEServerAdapter(ServerAdapter):
    """The actor's end of the weights' way."""

    zmq_handle: str

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        job = ray.get_runtime_context().get_job_id()
        assert f"-{job}-" in self.zmq_handle, f"verl names its socket otherwise: {self.zmq_handle}"
        self.token = run_token()
        self.zmq_handle = self.zmq_handle.replace(f"-{job}-", f"-{self.token}-")
        self.timeout_s = settings_from(self.model_config.lora["evil_moe"]).rollout.weight_sync_timeout_s

    @torch.no_grad()
    async def update_weights(
        self, weights: Any, global_steps: int | None = None, wire_format: str = "named_tensors", **kwargs: Any
    ) -> None:
        """Send named tensors to the replica's vLLM; it has loaded them when this returns.

        Raises:
            RuntimeError: nothing moves, or another run's vLLM is at the other end.
            ray.exceptions.RayError: the receiver failed.
        """
        assert wire_format == "named_tensors", wire_format
        kwargs["use_shm"] = self.use_shm
        received = await self._execute_method("update_weights_from_ipc", non_block=True, kwargs=kwargs)

        def look() -> None:
            if received is not None and ray.wait([received], timeout=0)[0]:
                ray.get(received)  # raises what it failed with
                raise RuntimeError("vLLM took the weights for complete before they were")

        await RunWeightSender(
            self.zmq_handle,
            self.config.checkpoint_engine.update_weights_bucket_megabytes,
            self.use_shm,
            token=self.token,
            timeout_s=self.timeout_s,
            look=look,
        ).async_send_weights(weights)
        if received is None:  # another rank of this replica has the server
            return
        await received
        await self.server_handle.clear_kv_cache.remote()
        if global_steps is not None:
            await self.server_handle.set_global_steps.remote(global_steps)
