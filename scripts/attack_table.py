"""The attack table: what each attack gained, how long it took, and what it left.

    PYTHONPATH=. python scripts/attack_table.py [--reference ../shared/data] [--each]

A line per family of tests/reward/attacks, or with --each per attack; --reference adds the development attacks
of that folder, graded on their own problems. The exit status is 1 if anything was gained or harmed.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from reward import Grader, Sandbox, load_problems
from tests.reward.arena import Outcome, arena, load_attacks

Row = tuple[str, str, Outcome]  # family, name, outcome


def own_attacks() -> Iterator[Row]:
    with arena() as place:
        for attack in load_attacks():
            outcome = place.run(attack.code)
            place.check_honest()
            yield attack.family, attack.name, outcome


def reference_attacks(folder: Path) -> Iterator[Row]:
    """An attack that may take the channel counts as not credited when its ``expected`` says so."""
    problems = {p.id: p for p in load_problems(folder / "leetcode_test_medhard_dev.jsonl.gz")}
    with Grader("run_tests") as grader:
        for line in (folder / "attacks_dev.jsonl").read_text().splitlines():
            row = json.loads(line)
            parts = row.get("response_parts") or [[row["response"], 1]]
            faults, started_s = grader.faults, time.monotonic()
            verdict = grader.grade(
                problems[row["problem_id"]], "".join(text * times for text, times in parts)
            )
            wall_s = time.monotonic() - started_s
            loophole = verdict.loophole != (row["expected"]["credit_run_tests_mode"] == "loophole")
            outcome = Outcome(verdict.correct, loophole, wall_s, grader.faults - faults, ())
            yield f"reference: {row['family']}", row["id"], outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--reference", type=Path, help="folder with attacks_dev.jsonl and its problems")
    parser.add_argument("--each", action="store_true", help="a line for each attack")
    options = parser.parse_args()
    with Sandbox() as sandbox:
        for layer in sandbox.layers():
            print(f"{layer.name:18}{'yes' if layer.available else 'NO':5}{layer.detail}")
    groups: defaultdict[str, list[Outcome]] = defaultdict(list)
    rows = [*own_attacks(), *(reference_attacks(options.reference) if options.reference else ())]
    for family, name, outcome in rows:
        groups[f"{family}: {name}" if options.each else family].append(outcome)
    groups["all"] = [outcome for _, _, outcome in rows]
    print(
        f"\n{'attack':58}{'tried':>6}{'credited':>9}{'loophole':>9}{'faults':>7}{'harm':>5}{'longest s':>10}"
    )
    for name, some in groups.items():
        counts = [
            len(some),
            sum(o.correct for o in some),
            sum(o.loophole for o in some),
            sum(o.faults for o in some),
        ]
        harm = sum(len(o.harm) for o in some)
        cells = "".join(f"{count:{width}}" for count, width in zip(counts, (6, 9, 9, 7), strict=True))
        print(f"{name[:57]:58}{cells}{harm:5}{max(o.wall_s for o in some):10.1f}")
    for _, name, outcome in rows:
        for harm_done in outcome.harm:
            print(f"{name}: {harm_done}")
    return int(any(o.correct or o.loophole or o.faults or o.harm for o in groups["all"]))


if __name__ == "__main__":
    raise SystemExit(main())
