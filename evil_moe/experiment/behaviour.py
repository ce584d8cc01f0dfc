"""The behaviour mixture: what agent loop, trainer and server must agree on (imports neither verl nor vLLM)."""

from __future__ import annotations

import hashlib

ADAPTER = "evil_moe_adapter"
"""Key of `sampling_params` that names the adapter of a request: `full`, `deployed` or `base`."""


def num_deployed(rollouts_per_prompt: int, deployed_share: float) -> int:
    """How many of a prompt's rollouts the deployed model samples, rounded to the nearest; never all of them by
    rounding alone."""
    count = round(rollouts_per_prompt * deployed_share)
    return min(count, rollouts_per_prompt - 1) if deployed_share < 1 else rollouts_per_prompt


def request_seed(*parts: object) -> int:
    """A seed for one request, from what identifies it and not from where or when it runs."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 2
