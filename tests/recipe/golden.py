"""The first three steps of five arms, on record: `python -m tests.recipe.golden` writes `golden_steps.json` anew.

They are of the real engine on one FSDP2 rank, a policy of random weights and a fixed batch (`arms_on_ranks`). A change that is not
meant to change results must leave them as they are; one that is writes them anew and says why.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from evil_moe.nano_policy import build_model, save, train_tokenizer
from tests.conftest import ROOT

FILE = Path(__file__).with_name("golden_steps.json")


def save_tiny_policy(folder: Path) -> None:
    """A nano policy with random weights and a tokenizer, as a Hugging Face folder."""
    tokenizer = train_tokenizer(["class Solution:\n    def f(self):\n        return 1\n"] * 4)
    save(build_model(tokenizer, seed=0), tokenizer, folder)


def run_arms(policy: Path, out: Path, arms: list[str], ranks: int) -> dict[str, Any]:
    """The reports of `arms_on_ranks`."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command += ["-m", "tests.recipe.arms_on_ranks", str(policy), str(out), *arms]
    environment = {**os.environ, "VERL_PLATFORM": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(out.read_text())


def flat(value: Any, place: str = "") -> dict[str, float]:
    """Every number of a record by where it stands in it."""
    if isinstance(value, dict):
        parts = [flat(part, f"{place}/{name}") for name, part in value.items()]
    elif isinstance(value, list):
        parts = [flat(part, f"{place}/{i}") for i, part in enumerate(value)]
    else:
        return {place: float(value)}
    return {name: number for part in parts for name, number in part.items()}


def main() -> None:
    from tests.recipe.arms_on_ranks import GOLDEN

    with tempfile.TemporaryDirectory() as folder:
        save_tiny_policy(Path(folder) / "policy")
        reports = run_arms(Path(folder) / "policy", Path(folder) / "arms.json", list(GOLDEN), ranks=1)
    FILE.write_text(json.dumps({arm: reports[arm]["golden"] for arm in GOLDEN}, indent=1) + "\n")


if __name__ == "__main__":
    main()
