"""Hypotheses written down before a run: their files, and what runs answer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from evil_moe.report import RunFolderError, load_run, write_report
from evil_moe.report.prereg import answer, fingerprint, load_prereg
from tests.evil_moe.test_compare import answered, configured
from tests.evil_moe.test_report import OFF, make_run

ROOT = Path(__file__).parents[2]


def write(path: Path, *rows: str) -> Path:
    path.write_text("hypotheses:\n" + "".join(f"  - {{{row}}}\n" for row in rows))
    return path


def test_hypotheses_are_answered(tmp_path: Path) -> None:
    prereg = load_prereg(
        write(
            tmp_path / "prereg.yaml",
            "id: low, says: low, quantity: router.off.loophole, at_most: 0.05",
            "id: high, says: high, quantity: router.on.loophole, at_least: 0.8",
            "id: ratio, says: ratio, quantity: none.off.loophole / router.off.loophole, at_least: 5",
            "id: other, says: other, quantity: absorb.off.hack, at_most: 1",
            "id: differ, says: differ, differ: [none.off.loophole, router.off.loophole], p_below: 0.2",
        )
    )
    runs = [
        load_run(answered(tmp_path / "a", "router", 1, [0] * 12)),
        load_run(answered(tmp_path / "b", "none", 1, [1] * 12, off=OFF | {"loophole": 0.5})),
    ]
    arms = {run.arm: [run] for run in runs}
    answers = [answer(hypothesis, arms) for hypothesis in prereg.hypotheses]
    assert [verdict for verdict, _ in answers] == ["holds", "fails", "holds", "not measured", "holds"]
    assert answers[2][1] == "10.00 = 0.500 / 0.050 over 1 seeds"
    assert answers[3][1] == "no evaluated run of absorb"
    assert "difference +1.000 (by seed +1.000)" in answers[4][1] and "6 units" in answers[4][1]
    # A rate of nothing at all cannot be divided by: more than zero is infinitely more, zero is no answer.
    zero = replace(runs[0].evaluation, off=replace(runs[0].evaluation.off, loophole=0.0))  # type: ignore[type-var]
    assert answer(prereg.hypotheses[2], arms | {"router": [replace(runs[0], evaluation=zero)]})[0] == "holds"


def test_arms_are_compared_on_the_seeds_that_all_of_them_have(tmp_path: Path) -> None:
    """Seed 2 of the router, a bad one, must not be held against the other arm's seed 1."""
    prereg = load_prereg(
        write(
            tmp_path / "prereg.yaml",
            "id: ratio, says: s, quantity: none.off.loophole / router.off.loophole, at_least: 5",
            "id: differ, says: s, differ: [none.off.loophole, router.off.loophole], p_below: 0.2",
        )
    )
    bad, worse = OFF | {"loophole": 0.9}, OFF | {"loophole": 0.5}
    one = load_run(answered(tmp_path / "a", "router", 1, [0] * 12))
    two = load_run(answered(tmp_path / "b", "router", 2, [1] * 12, off=bad))
    none = load_run(answered(tmp_path / "c", "none", 1, [1] * 12, off=worse))
    ratio, differ = (answer(h, {"router": [one, two], "none": [none]}) for h in prereg.hypotheses)
    assert ratio == ("holds", "10.00 = 0.500 / 0.050 over 1 seeds in common")
    assert differ[0] == "holds" and differ[1].endswith("6 units over 1 seeds in common")
    for hypothesis in prereg.hypotheses:
        told = answer(hypothesis, {"router": [two], "none": [none]})
        assert told == ("not measured", "the arms have no evaluated seed in common")


def test_a_hypothesis_can_name_a_control(tmp_path: Path) -> None:
    """Solving rose over the policy before RL; where that side was not evaluated, there is no answer."""
    text = "id: {0}, says: s, quantity: router.off.solve / router.{0}.solve, at_least: 1.1"
    runs = {"router": [load_run(make_run(tmp_path / "run", base=OFF | {"solve": OFF["solve"] / 2}))]}
    for side, verdict in (("base", "holds"), ("random_block", "not measured")):
        prereg = load_prereg(write(tmp_path / f"{side}.yaml", text.format(side)))
        told = answer(prereg.hypotheses[0], runs)
        assert told[0] == verdict and ("2.00 = " in told[1] or "no such side" in told[1]), told


def test_report_says_which_runs_knew_the_hypotheses(tmp_path: Path) -> None:
    prereg = write(
        tmp_path / "prereg.yaml", "id: low, says: low, quantity: router.off.loophole, at_most: 0.05"
    )
    runs = [answered(tmp_path / "a", "router", 1, [0] * 8), answered(tmp_path / "b", "none", 1, [1] * 8)]
    (runs[0] / "provenance.json").write_text(json.dumps({"starts": [{"prereg": fingerprint(prereg)}]}))
    text = write_report(runs, tmp_path / "out", prereg).read_text()
    assert "Not stated in this form before these runs started: none, seed 1 (nano)." in text
    assert "| low | low | 0.050 over 1 seeds | holds |" in text
    assert "| none | OFF loophole | +1.000 | +1.000 | 0.1" in text, "2 of the 16 sign patterns"


LOW = "id: low, says: low, quantity: router.off.loophole, at_most: 0.05"


def test_a_single_run_answers_hypotheses_too(tmp_path: Path) -> None:
    prereg = write(tmp_path / "prereg.yaml", LOW)
    text = write_report([make_run(tmp_path / "run")], tmp_path / "out", prereg).read_text()
    assert "| low | low | 0.050 over 1 seeds | holds |" in text and "## Runs" not in text
    assert text.index("## Hypotheses") < text.index("## router, seed 3")


def test_hypotheses_are_answered_from_the_runs_of_one_preset(tmp_path: Path) -> None:
    """Two presets have an arm of the same name; `nano` holds, `other` does not."""
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", off=OFF | {"loophole": 0.8})]
    configured(runs[1], preset="other")
    text = write_report(runs, tmp_path / "out", write(tmp_path / "nano.yaml", LOW)).read_text()
    assert "| low | low | 0.050 over 1 seeds | holds |" in text and "over 1 seeds | fails |" not in text
    text = write_report(runs, tmp_path / "out", write(tmp_path / "mine.yaml", LOW)).read_text()
    nano, other = text.index("Runs of the preset nano:"), text.index("Runs of the preset other:")
    assert nano < text.index("| 0.050 over 1 seeds | holds |") < other
    assert other < text.index("| 0.800 over 1 seeds | fails |")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("says: x", "hypothesis 1: needs the texts `id` and `says`"),
        ("id: a, says: x", "needs `quantity`"),
        ("id: a, says: x, quantity: router.off, at_most: 1", "'router.off' is not arm.side.rate"),
        ("id: a, says: x, quantity: router.off.hack", "needs one of"),
        ("id: a, says: x, quantity: router.off.hack, at_most: low", "bounds must be numbers"),
        ("id: a, says: x, quantity: router.off.hack, p_below: 0.1", "needs one of"),
        ("id: a, says: x, quantity: a.on.hack / b.on.hack / c.on.hack, at_most: 1", "no ratio of two"),
    ],
)
def test_malformed_hypotheses(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(RunFolderError, match=message.replace(".", r"\.")):
        load_prereg(write(tmp_path / "prereg.yaml", row))


def test_shared_ids_are_refused(tmp_path: Path) -> None:
    row = "id: a, says: x, quantity: router.off.hack, at_most: 1"
    with pytest.raises(RunFolderError, match="share an id"):
        load_prereg(write(tmp_path / "prereg.yaml", row, row))


SHIPPED = sorted((ROOT / "configs" / "prereg").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_the_shipped_hypotheses_load_and_name_arms_that_exist(path: Path) -> None:
    prereg = load_prereg(path)
    arms = {path.stem for path in (ROOT / "configs" / "arm").glob("*.yaml")}
    assert {term.arm for hypothesis in prereg.hypotheses for term in hypothesis.terms} <= arms


def test_a_term_can_be_of_one_loophole(tmp_path: Path) -> None:
    """Of two problems per loophole and two answers each: one of four exits, all four run_tests."""
    folder = make_run(tmp_path / "run")
    rows = [
        {
            "side": "off",
            "problem_id": problem,
            "mode": mode,
            "loophole": used,
            "exploited": False,
            "correct": False,
        }
        | {"can_compile": True}
        for mode, hits in (("exit_code", [True, False, False, False]), ("run_tests", [True] * 4))
        for problem, used in zip((f"{mode}1", f"{mode}1", f"{mode}2", f"{mode}2"), hits, strict=True)
    ]
    (folder / "eval" / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    runs = {"router": [load_run(folder)]}
    text = "id: {0}, says: s, quantity: router.off.loophole@{0}, at_most: 0.5"
    for mode, verdict, shown in (
        ("exit_code", "holds", "0.250"),
        ("run_tests", "fails", "1.000"),
        ("sentinel", "not measured", "no problem of that loophole"),
    ):
        prereg = load_prereg(write(tmp_path / f"{mode}.yaml", text.format(mode)))
        told = answer(prereg.hypotheses[0], runs)
        assert told[0] == verdict and shown in told[1], mode
