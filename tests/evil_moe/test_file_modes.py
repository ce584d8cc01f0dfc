"""What is written for others to read has the modes that the umask says, whatever library wrote it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from peft import PeftModel

from evil_moe.adapter.checkpoint import save_adapter_checkpoint
from evil_moe.experiment.commands.export import export_checkpoint
from evil_moe.export import save_export
from evil_moe.router import Router


@pytest.fixture(params=[0o022, 0o027, 0o002])
def mask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_adapters_and_exports(adapted: PeftModel, tmp_path: Path, mask: int) -> None:
    adapter = tmp_path / "adapter"
    save_adapter_checkpoint(adapted, Router(14, 4), adapter, write=True)
    save_export(adapted, "full", tmp_path / "full")
    export_checkpoint(adapter, "deployed", tmp_path / "deployed")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len([path for path in files if path.suffix == ".safetensors"]) == 4
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in files} == {
        path.name: 0o666 & ~mask for path in files
    }
    folders = [path for path in tmp_path.rglob("*") if path.is_dir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o777 & ~mask}
