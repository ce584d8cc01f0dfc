"""verl's jagged tensors, row by row."""

from __future__ import annotations

import torch

from recipe.actor.tensors import scaled_rows


def test_screened_rows_are_masked_whole_and_advantages_lie_on_every_token() -> None:
    mask = torch.nested.as_nested_tensor(
        [torch.tensor([1, 1, 0]), torch.tensor([1]), torch.tensor([1, 1])], layout=torch.jagged
    )
    kept = scaled_rows(mask, torch.tensor([True, False, True]))
    assert [row.tolist() for row in kept.unbind()] == [[1, 1, 0], [0], [1, 1]] and kept.dtype == mask.dtype
    advantages = scaled_rows(mask, torch.tensor([0.5, -1.0, 2.0]))
    assert [row.tolist() for row in advantages.unbind()] == [[0.5, 0.5, 0.0], [-1.0], [2.0, 2.0]]
