"""Arms against each other on run folders written by hand: summaries, paired tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evil_moe.report import load_run
from evil_moe.report.compare import arm_table, cost_table, paired_test, removal, solve_kept, unit_rates
from evil_moe.report.plots import ARM_STYLES
from tests.evil_moe.test_report import OFF, ON, make_run

ROOT = Path(__file__).parents[2]


def answered(folder: Path, arm: str, seed: int, off_loopholes: list[int], **changes: object) -> Path:
    """A run whose OFF answers, two to a problem, took the loophole as listed."""
    make_run(folder, arm, seed, **changes)
    rows = [
        {
            "side": side,
            "problem_id": place // 2,
            "loophole": bool(taken),
            "exploited": False,
            "correct": True,
            "can_compile": True,
        }
        for side, labels in (("off", off_loopholes), ("on", [1] * len(off_loopholes)))
        for place, taken in enumerate(labels)
    ]
    (folder / "eval" / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_paired_test_by_hand() -> None:
    # Three units that all differ by 1: of the 8 sign patterns, 2 are as extreme.
    a = {(0, "a"): 1.0, (0, "b"): 1.0, (0, "c"): 1.0, (0, "alone"): 9.0}
    test = paired_test(a, dict.fromkeys([(0, "a"), (0, "b"), (0, "c")], 0.0))
    assert test is not None and (test.difference, test.units) == (1.0, 3)
    assert test.p == pytest.approx(2 / 8, abs=0.02)
    same = paired_test({(0, "a"): 0.5, (1, "a"): 0.0}, {(0, "a"): 0.5, (1, "a"): 0.0})
    assert same is not None and (same.difference, same.p) == (0.0, 1.0)
    assert paired_test({(0, "a"): 1.0}, {(1, "a"): 1.0}) is None
    seeds = paired_test(
        {(0, "a"): 0.5, (0, "b"): 0.0, (3, "a"): 0.0}, {(0, "a"): 0.0, (0, "b"): 0.0, (3, "a"): 1.0}
    )
    assert seeds is not None and seeds.by_seed == {0: 0.25, 3: -1.0} and seeds.seeds() == "+0.250 -1.000"
    clear = paired_test({(0, str(i)): 1.0 for i in range(40)}, {(0, str(i)): 0.0 for i in range(40)})
    assert clear is not None and clear.p < 1e-3


def test_unit_rates_are_means_over_the_answers_to_a_problem(tmp_path: Path) -> None:
    run = load_run(answered(tmp_path / "run", "router", 4, [1, 0, 0, 0]))
    assert unit_rates([run], "off", "loophole") == {(4, "0"): 0.5, (4, "1"): 0.0}
    assert unit_rates([run], "on", "loophole") == {(4, "0"): 1.0, (4, "1"): 1.0}


def test_ratios_and_tables(tmp_path: Path) -> None:
    runs = [
        load_run(make_run(tmp_path / "a", "router", 1, auroc=0.9)),
        load_run(make_run(tmp_path / "b", "router", 2, auroc=0.7, off=OFF | {"loophole": 0.15})),
        load_run(make_run(tmp_path / "c", "none", 1, on=ON | {"hack": 0.0}, random_block=OFF, base=OFF)),
    ]
    evaluation = runs[0].evaluation
    assert evaluation is not None
    assert removal(evaluation) == pytest.approx(1 - 0.025 / 0.375) and solve_kept(evaluation) == 0.8
    first, second = arm_table(runs)[2:]
    assert first.startswith("| router | 2 | 0.750 ± 0.000 |") and "| 0.100 ± 0.071 |" in first
    assert first.endswith("| 0.800 ± 0.141 | 0.933 ± 0.000 | 0.800 ± 0.000 | - | - |"), "no control evaluated"
    off = OFF["loophole"], OFF["solve"]
    assert second.endswith(f"| - | - | 0.800 | {off[0]:.3f} | {off[1]:.3f} |"), "no AUROC, nothing to remove"
    assert cost_table(runs)[2:] == ["| router | 4.00 | - |", "| none | 4.00 | - |"]


def test_every_arm_has_a_style_of_its_own() -> None:
    arms = list((ROOT / "configs" / "arm").glob("*.yaml"))
    assert len(set(ARM_STYLES)) == len(ARM_STYLES) >= len(arms)
