"""Fixtures of the reward tests."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.reward.helpers import descendants


@pytest.fixture(scope="session")
def attacks(shared_data: Path) -> list[dict[str, Any]]:
    """The development attacks, each with its whole text as ``response``."""
    rows = [json.loads(line) for line in (shared_data / "attacks_dev.jsonl").read_text().splitlines()]
    for row in rows:
        if "response_parts" in row:
            row["response"] = "".join(text * times for text, times in row["response_parts"])
    return rows


@pytest.fixture(autouse=True, scope="module")
def nothing_left_by_module() -> Iterator[None]:
    """The same for the graders that a module shares between its tests."""
    before = descendants(os.getpid())
    yield
    assert descendants(os.getpid()) <= before


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After every test: no process and no scratch folder that was not there before."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # where Sandbox makes its scratch folders
    before = descendants(os.getpid())
    yield
    assert descendants(os.getpid()) <= before
    assert list(tmp_path.glob("reward-sandbox-*")) == []
