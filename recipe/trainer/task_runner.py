"""The Ray actor that runs verl's trainer. Light until it runs, so that the driver need not import what only it uses."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import ray
from omegaconf import DictConfig


def refuse_shared_ray() -> None:
    """One verl job at a time on a Ray: its transfer queue has one name there, and a second job would take the first one's
    rollouts for its own.

    Raises:
        RuntimeError: another job's queue is there.
    """
    try:
        ray.get_actor("TransferQueueController", namespace="transfer_queue")
    except ValueError:
        return
    raise RuntimeError(
        f"another verl job trains on this Ray ({ray.get_runtime_context().gcs_address}), and the two would share one queue of "
        "rollouts: wait for it, or give this run a Ray of its own (leave ray_kwargs.ray_init.address and RAY_ADDRESS out)"
    )


@ray.remote(num_cpus=1)
class TaskRunner:
    """verl's task runner, with our trainer registered in its process."""

    def run(self, config: DictConfig) -> None:
        """Train as `config` says, to the end."""
        import transfer_queue as tq

        refuse_shared_ray()
        with ThreadPoolExecutor(max_workers=1) as pool:
            # Its two actors take 15 s to import what they need, as long as this process does; verl's own call then
            # finds the queue that is there.
            queue = pool.submit(tq.init, config.transfer_queue)

            from verl.trainer.main_ppo import TaskRunnerV1
            from verl.trainer.ppo.utils import need_critic, need_reference_policy
            from verl.utils.config import validate_config

            import recipe.trainer.sync_trainer  # noqa: F401  # registers the trainer
            from recipe.reward.sandbox_pool import close_sandboxes

            queue.result()
        validate_config(
            config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config)
        )
        try:
            TaskRunnerV1.__ray_actor_class__().run(config)
        finally:
            close_sandboxes()  # here: with this actor go the reward workers, and the sandboxes that they own
