"""Batches with every rollout in them, or none: a session that failed stops the run.

verl logs a session's error, trains on the rest of its group and fills the batch up with padding. Here that would drop
the very rollouts that the sandbox could not grade, move the share of deployed rollouts, and put padding into the
statistics of router, gate and monitor, all without a word.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

SURE_TO_WAIT = 0.7
"""Share of the shortest wait so far in which nothing is looked for."""


class WholeBatches(ReplayBuffer):
    """verl's synchronous sampler (`trainer.v1.sampler.custom_sampler`)."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # verl polls every 2 s and has no key for it; a nano generation takes little more.
        self.poll_interval = 0.05
        self._waits: dict[str, list[float]] = defaultdict(list)

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict]:
        """The rollouts of a step, or of a validation.

        Raises:
            RuntimeError: a session of theirs failed, in vLLM or at grading.
        """
        started = time.monotonic()
        waits = self._waits[partition_id]
        # Every poll asks the queue for all of its keys, on cores that the generation wants. The first wait was also for
        # engines to warm up.
        time.sleep(SURE_TO_WAIT * min(waits[1:], default=0.0))
        try:
            batch = super().sample(global_steps, partition_id, batch_size)
        except RuntimeError as error:  # verl's own, when nothing at all is left to train on
            self._refuse_failed(global_steps, partition_id, error)
            raise
        self._refuse_failed(global_steps, partition_id, None)
        waits.append(time.monotonic() - started)
        return batch

    def _refuse_failed(self, step: int, partition_id: str, cause: Exception | None) -> None:
        if failed := sorted(self.failure_keys[partition_id]):
            raise RuntimeError(
                f"{len(failed)} prompts of step {step} ({partition_id}) have rollouts that failed, e.g. {failed[0]}; a step is "
                "trained on all of its rollouts or not at all. The reason is in the log at 'Error in _run_prompt'"
            ) from cause
