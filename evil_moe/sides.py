"""The sides of an evaluation, by the names that `eval.json`, reports and hypotheses give them."""

from __future__ import annotations

ABLATION = ("on", "off")
"""The adapter as trained, and without its quarantine."""
RANDOM_BLOCK = "random_block"
"""Control, with `evil_moe.eval.random_block`: as many ranks reset as the quarantine has, drawn at random."""
BASE = "base"
"""Control, with `evil_moe.eval.base`: the policy without an adapter. A deployed model that learned nothing equals it."""
CONTROLS = (RANDOM_BLOCK, BASE)
SIDES = (*ABLATION, *CONTROLS)
