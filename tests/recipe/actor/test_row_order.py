"""The order of a step's rows."""

from __future__ import annotations

import random

from recipe.actor.fields import row_order

KEYS = [f"000003-{prompt:04d}_{reply}_0" for prompt in range(4) for reply in range(12)]


def test_rows_come_by_prompt_and_reply_whenever_they_arrived() -> None:
    arrived = random.Random(0).sample(KEYS, len(KEYS))
    assert [arrived[i] for i in row_order(arrived, None, mini_batch=24)] == KEYS  # reply 10 after reply 9


def test_short_rows_first_within_an_optimizer_step_and_equal_ones_in_order() -> None:
    arrived = random.Random(1).sample(KEYS, len(KEYS))
    length = {key: 100 + KEYS.index(key) * 7 % 5 for key in KEYS}
    rows = [arrived[i] for i in row_order(arrived, [length[key] for key in arrived], mini_batch=24)]
    for start in (0, 24):
        step = KEYS[start : start + 24]
        assert rows[start : start + 24] == sorted(step, key=lambda key: (length[key], KEYS.index(key)))
