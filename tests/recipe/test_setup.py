"""`make setup` up to where it would need the network, with a Python that has no venv module, as Debian's."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="the lock is for another machine"
)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in ("scripts/setup.sh", "scripts/vllm_metadata.py", "requirements/cpu.lock", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    python = tmp_path / "python"
    real = f"exec {sys.executable}"
    python.write_text(
        f'#!/bin/sh\n[ "$1 $2" = "-m venv" ] || {real} "$@"\n'
        f'{sys.executable} -m venv --without-pip "$3"\necho "ensurepip is not available"\nexit 1\n'
    )
    python.chmod(0o755)
    return tmp_path


def setup(clone: Path, free_gib: int) -> str:
    """What a refused set-up says."""
    df = clone / "bin" / "df"
    df.parent.mkdir(exist_ok=True)
    df.write_text(f"#!/bin/sh\necho header\necho disk 1 1 {free_gib << 20} 1% /\n")
    df.chmod(0o755)
    variables = {**os.environ, "PYTHON": str(clone / "python"), "PATH": f"{df.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", str(clone / "scripts/setup.sh")], env=variables, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stderr


def test_a_half_made_environment_is_made_anew(clone: Path) -> None:
    for _ in range(2):
        assert "install its venv module" in setup(clone, free_gib=20)
        assert (clone / ".venv/bin/python").exists() and not (clone / ".venv/bin/pip").exists()


def test_a_full_disk_is_said_whatever_is_there(clone: Path) -> None:
    assert "3 GB free" in setup(clone, free_gib=3) and not (clone / ".venv").exists()
    setup(clone, free_gib=20)
    assert "3 GB free" in setup(clone, free_gib=3) and (clone / ".venv").exists()
