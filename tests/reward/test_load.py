"""Some hundred mixed gradings with hangs and bombs; `scripts/load_test_sandbox.py` runs any number of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_mixed_load_leaves_nothing_and_loses_nothing():
    done = subprocess.run(
        [sys.executable, "scripts/load_test_sandbox.py", "300", "--workers", "2"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "graded      300 of 300" in done.stdout
        and "left        0 processes, 0 files, 0 descriptors" in done.stdout
    )
