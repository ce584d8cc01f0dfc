"""A run's folder: where it came from, who may train in it, and how a run comes back to it."""

from __future__ import annotations

from pathlib import Path

from evil_moe.report.prereg import fingerprint
from recipe.config import compose, prereg_file
from recipe.run_folder import provenance


def test_provenance_has_the_hash_of_the_hypotheses(tmp_path: Path) -> None:
    config, mine = compose([]), tmp_path / "mine.yaml"
    mine.write_text("hypotheses: []\n")
    shipped = prereg_file("nano")
    assert shipped is not None and provenance(config)["prereg"] == fingerprint(shipped)
    assert provenance(config, mine)["prereg"] == fingerprint(mine) != fingerprint(shipped)
