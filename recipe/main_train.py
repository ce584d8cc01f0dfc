"""Training: verl's trainer with our classes, driven from a process that has joined Ray."""

from __future__ import annotations

import signal
from typing import Any

from omegaconf import DictConfig


def drive(config: DictConfig) -> None:
    """verl's `run_ppo` with our task runner; then Ray is shut down."""
    import ray
    from verl.trainer.main_ppo import run_ppo

    from recipe.platform.cores import refuse_few_cores
    from recipe.platform.versions import check_platform
    from recipe.trainer.task_runner import TaskRunner

    check_platform(config.trainer.device)

    actor: Any = TaskRunner  # Ray's decorator types it as the plain class

    class OnceRayIsUp:
        """What verl makes the task runner of, after `ray.init`, whose handler of SIGTERM ends Ray first and then aborts."""

        options = actor.options

        @staticmethod
        def remote() -> Any:
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop is a Ctrl-C
            refuse_few_cores(
                config
            )  # now that Ray is joined, and another run may have taken some since the start
            return actor.remote()

    try:
        run_ppo(config, task_runner_class=OnceRayIsUp)
    finally:
        ray.shutdown()
