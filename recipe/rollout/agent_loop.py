"""Which model samples a rollout, and with which seed.

The behaviour policy is part of the method: of a prompt's n rollouts, `deployed_share` come from the deployed
model (first sessions), the rest from both blocks. A validation row names its adapter itself.
"""

from __future__ import annotations

from typing import Any

from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop

from evil_moe.experiment.behaviour import ADAPTER, num_deployed, request_seed


class EvilMoEAgentLoop(SingleTurnAgentLoop):
    """One turn, with an adapter and a seed per request."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        settings = self.config.evil_moe
        info, session = kwargs["extra_info"], int(kwargs["session_id"])
        adapter = info.get("adapter")
        if adapter:  # validation: ON and OFF rows of a problem share their seeds
            seed = request_seed(settings.seed, "validation", info["index"], session)
        else:
            deployed = num_deployed(self.rollout_config.n, settings.rollout.deployed_share)
            adapter = "deployed" if session < deployed else "full"
            seed = request_seed(settings.seed, "train", kwargs["uid"], session)
        sampling_params = {**sampling_params, ADAPTER: adapter, "seed": seed}
        return await super().run(sampling_params, **kwargs)
