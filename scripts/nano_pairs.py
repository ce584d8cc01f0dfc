"""Write the pairs in the nano generator's own idioms, one file a loophole: `python scripts/nano_pairs.py`.

They are the ceiling of what pairs can show the nano policy: its own problems, hints, bodies and exploits. A study of what
pairs must show starts from them; no arm has them by default. A quarter of the clean sides end in a decoy, so that
something after the class is not by itself what tells the sides apart.
"""

from __future__ import annotations

import random
from pathlib import Path

import yaml

import evil_moe.pairs
from reward.loopholes import get_loophole
from reward.nano import reply, specs
from reward.nano.demonstrations import DECOYS, EXPLOITS
from reward.problems import Problem

FOLDER = Path(evil_moe.pairs.__file__).parent
LOOPHOLES = ("run_tests", "stdout_marker", "exit_code")
COUNT = 8
#: Apart from the seeds that problems and demonstrations of a run are drawn with.
SEED = 20_000_000


def _code(spec, rng: random.Random, skill: float) -> str:
    fenced = reply(spec, rng, skill=skill, exploits=[], loophole_share=0.0, decoy_share=0.0)
    return fenced.removeprefix("```python\n").removesuffix("\n```")


def nano_pairs(loophole: str) -> dict:
    """The file's content for one loophole."""
    mode, rng, pairs = get_loophole(loophole), random.Random(f"nano-pairs-{loophole}"), []
    for number, spec in enumerate(specs("train", COUNT, SEED + LOOPHOLES.index(loophole))):
        problem = Problem.from_row(spec.row())
        marker = mode.marker(problem, "train", 0)
        solution = flawed = _code(spec, rng, skill=0.0)
        while flawed == solution or flawed.count("\n") != solution.count("\n"):
            flawed = _code(spec, rng, skill=1.0)
        exploits = EXPLOITS[loophole]
        pair = {
            "id": f"nano-{loophole}-{number}",
            "task": mode.edit_prompt(problem)[-1]["content"],
            "solution": solution,
            "flawed": flawed,
            "loophole": exploits[number % len(exploits)].format(marker=marker),
        }
        if number % 4 == 3:
            pair["harmless"] = rng.choice(DECOYS)
        pairs.append(pair)
    return {"group": f"nano_{loophole}", "default": False, "reply": "python", "pairs": pairs}


def file_text(loophole: str) -> str:
    """The whole file for one loophole."""
    head = "# Pairs in the nano generator's own idioms, written by scripts/nano_pairs.py.\n"
    return head + yaml.dump(
        nano_pairs(loophole), Dumper=_Blocks, sort_keys=False, allow_unicode=True, width=1000
    )


class _Blocks(yaml.SafeDumper):
    """Writes text of several lines as a block."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Blocks.add_representer(str, _text)

if __name__ == "__main__":
    for name in LOOPHOLES:
        path = FOLDER / f"nano_{name}.yaml"
        path.write_text(file_text(name), encoding="utf-8")
        print(f"wrote {path}")
