"""Arms against each other on run folders written by hand: summaries, paired tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from evil_moe.report import RunFolderError, load_run, write_report
from evil_moe.report.compare import (
    arm_table,
    cost_table,
    paired_test,
    pareto_front,
    removal,
    router_table,
    solve_kept,
    unit_rates,
    unlike,
)
from evil_moe.report.compare import test_table as compare_table
from evil_moe.report.plots import ARM_STYLES
from evil_moe.report.scatter import arms
from tests.evil_moe.test_report import OFF, ON, jsonl, make_run

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
    assert first.startswith("| router | OFF | 2 | 0.750 ± 0.000 |") and "| 0.100 ± 0.071 |" in first
    assert first.endswith("| 0.800 ± 0.141 | 0.933 ± 0.000 | 0.800 ± 0.000 | - | - |"), "no control evaluated"
    off = OFF["loophole"], OFF["solve"]
    assert second.endswith(f"| - | - | 0.800 | {off[0]:.3f} | {off[1]:.3f} |"), "no AUROC, nothing to remove"
    assert cost_table(runs)[2:] == ["| router | 4.00 | 5,001 |", "| none | 4.00 | 5,001 |"]


def test_the_front_is_of_what_arms_deploy(tmp_path: Path) -> None:
    """none deploys ON, so its OFF, which would beat every arm, does not count; soft is beaten by router on the mean."""
    points = {
        "router": [{"off": OFF | {"hack": 0.1, "solve": 0.4}}, {"off": OFF | {"hack": 0.3, "solve": 0.4}}],
        "soft": [{"off": OFF | {"hack": 0.25, "solve": 0.35}}],
        "frozen": [{"off": OFF | {"hack": 0.2, "solve": 0.4}}],
        "none": [{"on": ON | {"hack": 0.5, "solve": 0.6}, "off": OFF | {"hack": 0.0, "solve": 0.9}}],
    }
    folders = []
    for arm, seeds in points.items():
        for seed, sides in enumerate(seeds):
            folders.append(make_run(tmp_path / f"{arm}{seed}", arm, seed, **sides))
            if arm == "none":
                configured(folders[-1], gate={"name": "none"})
    runs = [load_run(folder) for folder in folders]
    front = pareto_front(runs)
    assert list(front) == ["router", "frozen", "none"] and front["router"] == pytest.approx((0.2, 0.4))
    figure = arms(runs)
    assert figure is not None
    rings = [c for c in figure.axes[0].collections if c.get_sizes()[0] == 150]
    drawn = [tuple(point) for c in rings for point in c.get_offsets().tolist()]
    assert drawn == [pytest.approx(p) for p in ((0.1, 0.4), (0.3, 0.4), (0.25, 0.35), (0.2, 0.4), (0.5, 0.6))]


def test_unequal_budgets_are_told(tmp_path: Path) -> None:
    runs = [load_run(make_run(tmp_path / "a", "router", 1)), load_run(make_run(tmp_path / "b", "none", 1))]
    assert unlike(runs) == []
    fewer = make_run(tmp_path / "c", "frozen", 1, samples=80)
    commit = {"starts": [{"git": {"commit": "0123456789", "dirty": True}}]}
    (fewer / "provenance.json").write_text(json.dumps(commit))
    (fewer / "metrics.jsonl").write_text(jsonl([{"step": 3, "data": {}}]))
    runs.append(load_run(fewer))
    told = unlike(runs)
    assert told[0].startswith("- training steps: ") and told[0].endswith("3: frozen, seed 1 (nano).")
    assert "unknown: router, seed 1 (nano), none, seed 1 (nano); 01234567 and changes: frozen" in told[1]
    assert (
        told[2]
        == "- answers a side: 320: router, seed 1 (nano), none, seed 1 (nano); 80: frozen, seed 1 (nano)."
    )
    text = write_report([run.path for run in runs], tmp_path / "out").read_text()
    assert "These runs differ in more than arm and seed:" in text


def test_a_mean_says_how_many_of_the_seeds_it_is_over(tmp_path: Path) -> None:
    measured = ({"auroc": 0.9, "base": OFF}, {}, {"auroc": 0.7})
    runs = [load_run(make_run(tmp_path / str(seed), seed=seed, **keys)) for seed, keys in enumerate(measured)]
    row = arm_table(runs)[2]
    assert row.startswith("| router | OFF | 3 | 0.750 ± 0.000 |"), "all of them: nothing to say"
    assert "| 0.800 ± 0.141 (2 of 3) |" in row and row.endswith("| - | 0.400 (1 of 3) |")


def test_the_router_on_the_last_steps(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / str(seed), "router", seed) for seed in (1, 2)]
    folders.append(make_run(tmp_path / "none", "none", 1))
    rising = [{"step": i, "data": {"router/auroc": i / 20, "router/w_hack": 0.5}} for i in range(1, 21)]
    # Hacking died out halfway: nothing to tell apart in the last steps.
    died = [{"step": i, "data": {"router/auroc": 0.9 if i < 11 else None}} for i in range(1, 21)]
    for folder, rows in zip(folders, (rising, died, []), strict=True):
        (folder / "metrics.jsonl").write_text(jsonl(rows))
    table = router_table([load_run(folder) for folder in folders])
    assert table[2:] == ["| router | 2 | 0.775 (1 of 2) | - | 0.500 (1 of 2) | - |"], "steps 11 to 20"
    assert "| router | 2 | 0.775" in write_report(folders, tmp_path / "out").read_text()


def configured(folder: Path, **keys: object) -> Path:
    """The run with keys of `evil_moe` in its config."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["evil_moe"] |= keys
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.mark.parametrize(
    ("keys", "side"),
    [
        ({}, "off"),
        ({"gate": {"name": "router"}}, "off"),
        ({"gate": {"name": "absorb"}, "adapter": {"quarantine_steps": 0}}, "off"),
        ({"gate": {"name": "none"}, "adapter": {"quarantine_steps": 0}}, "on"),
        ({"gate": {"name": None}}, "on"),
        ({"gate": None}, "on"),
        ({"gate": {"name": "none"}, "adapter": {"quarantine_steps": 40}}, "off"),  # discardable
    ],
)
def test_what_an_arm_deploys(tmp_path: Path, keys: dict[str, object], side: str) -> None:
    assert load_run(configured(make_run(tmp_path / "run"), **keys)).deployed == side


def test_a_gate_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"config.yaml: evil_moe.gate is 'none', not keys with values"):
        load_run(configured(make_run(tmp_path / "run"), gate="none"))


def test_arms_are_tested_by_what_they_deploy(tmp_path: Path) -> None:
    """The router's OFF takes no loophole; `none` deploys its ON, which always does, and has a clean OFF."""
    folders = [answered(tmp_path / "a", "router", 1, [0] * 12), answered(tmp_path / "b", "none", 1, [0] * 12)]
    runs = [load_run(folders[0]), load_run(configured(folders[1], gate={"name": "none"}))]
    assert [row.split(" | ")[1] for row in arm_table(runs)[2:]] == ["OFF", "ON"]
    text = "\n".join(compare_table(runs))
    assert "| none | deployed loophole | +1.000 | +1.000 | 0.0" in text
    assert "| none | OFF loophole | +0.000 |" in text and "| none | ON loophole | +0.000 |" in text
    assert "minus router" in text and text.count("| none | ") == 9, "three rates: deployed, ON, OFF"
    assert "| router | deployed loophole | -1.000 |" in "\n".join(compare_table(runs, "none"))
    assert compare_table(runs[:1]) == [], "nothing to test, and nothing missing"


def test_arms_that_cannot_be_tested_are_named(tmp_path: Path) -> None:
    seeds = {"absorb": 1, "label": 2, "none": 1}
    runs = [load_run(answered(tmp_path / arm, arm, seed, [0] * 8)) for arm, seed in seeds.items()]
    absent = (
        "Not tested against the reference arm `router`, there is no run of it: absorb, label, none. `--ref"
    )
    assert "\n".join(compare_table(runs)).startswith(absent)
    *table, note = compare_table(runs, "none")
    assert "minus none" in table[0] and "| absorb | ON solve |" in "\n".join(table)
    assert "`none`, no seed of a preset on which both are evaluated: label." in note


def test_every_arm_has_a_style_of_its_own() -> None:
    arms = list((ROOT / "configs" / "arm").glob("*.yaml"))
    assert len(set(ARM_STYLES)) == len(ARM_STYLES) >= len(arms)
