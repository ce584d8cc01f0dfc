"""``reward`` is usable alone."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_importing_reward_loads_no_other_package():
    code = (
        "import sys, pkgutil, importlib, reward\n"
        "for m in pkgutil.walk_packages(reward.__path__, 'reward.'): importlib.import_module(m.name)\n"
        "tops = {m.partition('.')[0] for m in sys.modules}\n"
        "print(sorted(tops - sys.stdlib_module_names - {'reward', '__main__'}))"
    )
    out = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    foreign = [name for name in eval(out.stdout) if not name.startswith("_")]
    assert foreign == []
