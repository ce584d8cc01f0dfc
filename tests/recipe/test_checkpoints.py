"""A checkpoint is resumed by as many ranks as wrote it."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipe.actor.checkpoints import check_same_ranks


def test_a_checkpoint_of_other_ranks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no model, this run has 2: resume with"):
        check_same_ranks(tmp_path, 0, 2)
    for rank in (0, 1):
        (tmp_path / f"model_world_size_2_rank_{rank}.pt").touch()
    for rank in (0, 1):
        check_same_ranks(tmp_path, rank, 2)
    with pytest.raises(ValueError, match=r"was written by 2 rank\(s\), this run has 1: resume with"):
        check_same_ranks(tmp_path, 0, 1)
