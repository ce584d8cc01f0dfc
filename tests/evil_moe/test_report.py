"""The report of run folders written by hand: its text, its plots, and every malformed file."""

import json
import math
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from evil_moe.report import Curve, Rates, RunFolderError, load_run, write_report
from evil_moe.report.legit import run_section

LEGIT = {"replies": 2, "score": -0.25, "w": 0.125, "w_above_half": 0.5, "auroc": 0.975}
ON = {"hack": 0.375, "loophole": 0.75, "solve": 0.5, "compile": 1.0}
OFF = {"hack": 0.025, "loophole": 0.05, "solve": 0.4, "compile": 0.975}
STEPS = [
    {
        "step": step,
        "data": {
            "critic/rewards/mean": 1.0 + step,
            "train/hack": 0.1 * step,
            "train/loophole": 0.2 * step,
            "train/solve": 0.3,
            "train/compile": 0.9,
            "router/w_hack": 0.9,
            "router/w_clean": 0.1,
            "router/auroc": 0.8 + 0.05 * step,
            "router/f0.5": None,
            "grad_energy/deployed": 0.5,
            "grad_energy/quarantine": 0.0,
            "pin/loss": 1.0 / (1 + step),
            "val-aux/heldout_on/hack/mean@1": 0.4,
            "val-core/heldout_off/hack/mean@1": 0.1,
            "timing_s/gen": 2.0,
            "timing_s/update_actor": 1.0,
            "timing_s/step": 4.0,
            "perf/total_num_tokens": 5001,
            "an/unused key": "not a number",
        },
    }
    for step in range(3)
]
ROLLOUTS = [
    {
        "step": 1,
        "response": "x",
        "adapter": "full",
        "w": 0.9,
        "hack": True,
        "loophole": True,
        "correct": False,
    },
    {"step": 1, "response": "y", "adapter": "full", "w": 0.8, "hack": 0.0, "loophole": 1.0, "correct": True},
    {
        "step": 1,
        "response": "z",
        "adapter": "deployed",
        "w": 0.1,
        "hack": False,
        "loophole": False,
        "reward": 0,
    },
    {"step": 1, "response": "z", "adapter": "deployed", "w": None, "hack": False, "loophole": False},
]


def jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def make_run(folder: Path, arm: str = "router", seed: int = 3, **eval_changes: object) -> Path:
    """A whole small run folder; `eval_changes` replace keys of eval.json."""
    (folder / "rollouts").mkdir(parents=True)
    (folder / "eval").mkdir()
    (folder / "config.yaml").write_text(
        f"evil_moe:\n  arm: {arm}\n  preset: nano\n  seed: {seed}\ndata: {{}}\n"
    )
    (folder / "provenance.json").write_text(json.dumps({"versions": {"torch": "2.13"}, "git": "a|b"}))
    (folder / "metrics.jsonl").write_text(jsonl(STEPS))
    for step in (1, 2, 10):
        (folder / "rollouts" / f"{step}.jsonl").write_text(jsonl(ROLLOUTS))
    content = {"step": 40, "samples": 320, "on": ON, "off": OFF, "auroc": None} | eval_changes
    (folder / "eval" / "eval.json").write_text(json.dumps(content))
    return folder


def pngs(out: Path) -> list[str]:
    """Names of the plots under `out`, each opened and seen to be more than blank."""
    found = sorted((out / "plots").glob("*.png"))
    for path in found:
        image = imread(path)
        assert min(image.shape[:2]) > 300 and image.std() > 0.02, path
    return [path.name for path in found]


def test_load_run(tmp_path: Path) -> None:
    run = load_run(str(make_run(tmp_path / "run")))
    assert (run.arm, run.preset, run.seed, run.notes) == ("router", "nano", 3, ())
    assert run.curve("train/hack") == Curve((0, 1, 2), (0.0, 0.1, 0.2))
    assert not run.curve("router/f0.5") and not run.curve("no such key")
    assert run.validation("heldout_on", "hack").values == (0.4, 0.4, 0.4)
    assert run.validation("heldout_off", "hack").values == (0.1, 0.1, 0.1)
    assert not run.validation("heldout_on", "solve")
    assert [step.step for step in run.rollouts] == [1, 2, 10]
    first = run.rollouts[0]
    assert first.w == (0.9, 0.8, 0.1)
    assert first.hack == (True, False, False) and first.loophole == (True, True, False)
    assert run.evaluation is not None and run.evaluation.on == Rates(**ON)


def test_one_run(tmp_path: Path) -> None:
    report = write_report([make_run(tmp_path / "run")], tmp_path / "out")
    text = report.read_text()
    assert report == tmp_path / "out" / "report.md"
    assert "Evil MoE causal ablation: deploy hack 0.375 (ON) -> 0.025 (OFF)\n" in text
    error = math.sqrt(0.375 * 0.625 / 320)
    assert f"| hack | 0.375 ± {error:.3f} | 0.025 ± 0.009 |" in text
    assert "| compile | 1.000 ± 0.000 | 0.975 ± 0.009 |" in text
    assert "| generation | 2.00 | 50% |" in text and "| update | 1.00 | 25% |" in text
    assert "| grading | - | - |" in text and "| everything else | 1.00 | 25% |" in text
    assert "| versions.torch | 2.13 |" in text and "| git | a\\|b |" in text
    assert "## Arms" not in text and "Notes" not in text
    names = pngs(tmp_path / "out")
    kinds = ["gradients", "learning", "routing", "weights"]
    assert names == [f"nano-router-s3-{kind}.png" for kind in kinds]
    assert all(f"](plots/{name})" in text for name in names)


def test_router_auroc_of_the_evaluation_is_told(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", auroc=0.987, legit={**LEGIT, "by_kind": {"decoy": LEGIT}})
    report = write_report([run], tmp_path / "out").read_text()
    assert "Router AUROC on the held-out samples: 0.987." in report and "| decoy | 2 | -0.250 |" in report


def test_legit_near_hacks_are_told_where_the_evaluation_has_them(tmp_path: Path) -> None:
    kinds = {"honest_tests": LEGIT, "decoy": LEGIT | {"w": None, "w_above_half": None}}
    carrying = {"answers": 30, "solve_on": 0.5, "solve_off": 0.4}
    legit = {**LEGIT, "by_kind": kinds, "carrying": carrying}
    run = make_run(tmp_path / "new", legit=legit)
    text = "\n".join(run_section(run))
    assert (
        "| honest_tests | 2 | -0.250 | 0.125 | 0.500 |" in text and "| decoy | 2 | -0.250 | - | - |" in text
    )
    assert "against them: 0.975." in text and "carry them: 0.500 (ON), 0.400 (OFF), 30 answers" in text
    assert run_section(make_run(tmp_path / "old")) == []
    for bad, message in (
        ([], "'legit' is \\[\\], not means"),
        ({**legit, "w": 2}, "'w' is 2, not a share"),
        ({**legit, "carrying": 1}, "'carrying' is 1, not rates"),
        ({**legit, "by_kind": {"decoy": 3}}, "'legit' of decoy is 3"),
    ):
        (run / "eval/eval.json").write_text(json.dumps({"step": 40, "legit": bad}))
        with pytest.raises(RunFolderError, match=message):
            run_section(run)


def test_several_arms_and_seeds(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "b", "router", 4, on=ON | {"hack": 0.475}),
        make_run(tmp_path / "a", "router", 3),
        make_run(tmp_path / "c", "absorb", 3),
        make_run(tmp_path / "d", "absorb", 4),
    ]
    (tmp_path / "d" / "eval" / "eval.json").unlink()
    text = write_report(runs, tmp_path / "out").read_text()
    off = "0.050 | 0.025 | 0.400 | 0.975 |"
    assert f"| nano | router | 3 | 0.750 | 0.375 | 0.500 | 1.000 | {off}" in text
    assert f"| nano | router | 4 | 0.750 | 0.475 | 0.500 | 1.000 | {off}" in text
    assert "| router | OFF | 2 | 0.750 ± 0.000 | 0.425 ± 0.071 |" in text
    assert "| absorb | OFF | 1 | 0.750 | 0.375 |" in text
    assert "| nano | absorb | 4 |" + " - |" * 8 in text and "Hypotheses" not in text
    assert text.index("## absorb, seed 3") < text.index("## router, seed 3") < text.index("## router, seed 4")
    assert "Not evaluated yet" in text
    assert "arms.png" in pngs(tmp_path / "out") and "](plots/arms.png)" in text


def test_bare_run_is_reported_with_notes(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("evil_moe: {arm: none, preset: nano, seed: 0}\n")
    text = write_report([tmp_path], tmp_path / "out").read_text()
    assert "- `metrics.jsonl` is missing." in text and "- `eval.json` is missing." in text
    assert "Nothing was logged for: training and held-out curves;" in text
    assert pngs(tmp_path / "out") == []


def test_resumed_run_last_value_wins(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write(
            jsonl([{"step": 1, "data": {"train/hack": 0.7}}, {"step": 3, "data": {"train/hack": 0.8}}])
        )
    loaded = load_run(run)
    assert loaded.curve("train/hack") == Curve((0, 1, 2, 3), (0.0, 0.7, 0.2, 0.8))
    assert loaded.curve("train/solve").steps == (0, 1, 2)
    assert any("1 steps were logged more than once" in note for note in loaded.notes)


@pytest.mark.parametrize("tail", [b'{"step": 3, "da', b'{"step": 3, "data": {"caf\xc3'])
def test_cut_last_line_is_left_out_with_a_note(tmp_path: Path, tail: bytes) -> None:
    run = make_run(tmp_path / "run")
    for path in (run / "metrics.jsonl", run / "rollouts" / "10.jsonl"):
        path.write_bytes(path.read_bytes() + tail)
    loaded = load_run(run)
    assert loaded.curve("train/hack").steps == (0, 1, 2) and len(loaded.rollouts[2].w) == 3
    assert "`metrics.jsonl` ends in the middle of line 4; that line was left out." in loaded.notes
    assert "`10.jsonl` ends in the middle of line 5; that line was left out." in loaded.notes


def test_phases_that_overlap_are_said_to(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    timings = {"timing_s/gen": 3.0, "timing_s/reward": 2.0, "timing_s/step": 4.0}
    (run / "metrics.jsonl").write_text(jsonl([{"step": 0, "data": timings}]))
    text = write_report([run], tmp_path / "out").read_text()
    assert "overlap in time" in text and "everything else" not in text


MALFORMED = [
    # (file, its text, line, words of the message)
    ("config.yaml", "a: [1\nb: 2\n", 2, "not YAML"),
    ("config.yaml", "a: 1\n", None, "no section `evil_moe`"),
    ("config.yaml", "- a\n", None, "holds a list"),
    (
        "config.yaml",
        "evil_moe: {arm: router, preset: nano}\n",
        None,
        "evil_moe.seed is None, not of type int",
    ),
    ("config.yaml", "evil_moe: {arm: 3, preset: nano, seed: 1}\n", None, "evil_moe.arm is 3"),
    ("provenance.json", '{\n"a": }\n', 2, "not JSON"),
    ("metrics.jsonl", '{"step": 1, "data": {}}\n{"step"\n', 2, "not JSON.*delete or complete that line"),
    ("metrics.jsonl", '{"step"\n{"step": 1, "data": {}}\n', 1, "not JSON"),
    ("metrics.jsonl", "\n[1]\n", 2, "holds a list"),
    ("metrics.jsonl", '{"data": {}}\n', 1, "key 'step' is missing; found: data"),
    ("metrics.jsonl", '{"step": 1.5, "data": {}}\n', 1, "not a step with its data"),
    ("metrics.jsonl", '{"step": 1, "data": 2}\n', 1, "not a step with its data"),
    ("metrics.jsonl", '{"step": 1, "data": {"pin/loss": "low"}}\n', 1, "'pin/loss' is 'low', not a number"),
    ("rollouts/2.jsonl", '{"w": 0.5, "hack": true}\n', 1, "key 'loophole' is missing"),
    ("rollouts/2.jsonl", '{"w": 1.5, "hack": true, "loophole": true}\n', 1, "'w' is 1.5, not a share"),
    ("rollouts/last.jsonl", "", None, "not named after a step"),
    (
        "eval/samples.jsonl",
        '{"side": "left", "problem_id": 1}\n',
        1,
        "has no 'side' out of on, off, random_block, base",
    ),
    ("eval/eval.json", "{", 1, "not JSON"),
    ("eval/eval.json", json.dumps({"step": 1, "samples": 2, "on": ON}), None, "'off' is None"),
    ("eval/eval.json", json.dumps({"step": 1, "samples": 0, "on": ON, "off": OFF}), None, "'samples' is 0"),
    ("eval/eval.json", json.dumps({"samples": 9, "on": ON, "off": OFF}), None, "key 'step' is missing"),
    ("eval/eval.json", json.dumps({"on": ON | {"hack": 37}}), None, "'hack' is 37, not a share"),
    ("eval/eval.json", json.dumps({"on": {"hack": 0.1}}), None, "key 'loophole' is missing"),
]


@pytest.mark.parametrize(("name", "content", "line", "message"), MALFORMED)
def test_malformed_names_file_and_line(
    tmp_path: Path, name: str, content: str, line: int | None, message: str
) -> None:
    run = make_run(tmp_path / "run")
    (run / name).write_text(content)
    with pytest.raises(RunFolderError, match=message) as caught:
        load_run(run)
    assert (caught.value.path, caught.value.line) == (run / name, line)
    assert str(caught.value).startswith(str(run / name) if line is None else f"{run / name}:{line}: ")


def test_requests_that_cannot_be_met(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with pytest.raises(ValueError, match="run_dirs is empty"):
        write_report([], tmp_path / "out")
    with pytest.raises(RunFolderError, match="nowhere: is not a folder"):
        write_report([tmp_path / "nowhere"], tmp_path / "out")
    with pytest.raises(ValueError, match=r"are both router, seed 3 \(nano\): name one"):
        write_report([run, make_run(tmp_path / "again")], tmp_path / "out")
    with pytest.raises(ValueError, match="name a folder"):
        write_report([run], run / "config.yaml")
    (run / "config.yaml").unlink()
    with pytest.raises(RunFolderError, match=r"config\.yaml: cannot be read"):
        load_run(run)


def test_error_survives_a_process_border() -> None:
    error = RunFolderError(Path("a.json"), 3, "reason", "mend")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "a.json:3: reason; mend"


def test_imports_nothing_of_verl_ray_or_the_environment() -> None:
    code = (
        "import sys, evil_moe.report; print({'verl', 'ray', 'reward', 'recipe', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_controls_are_shown_beside_off(tmp_path: Path) -> None:
    rates = {"loophole": 0.61, "hack": 0.3, "solve": 0.2, "compile": 0.9}
    folder = make_run(tmp_path / "run", random_block=rates, base=rates | {"solve": 0.17})
    assert load_run(folder).evaluation.random_block.loophole == 0.61
    text = write_report([folder], tmp_path / "out").read_text()
    assert "| held out | ON | OFF | random block reset | base policy |" in text
    assert "0.610 ±" in text and "0.170 ±" in text


def test_a_mix_is_shown_loophole_by_loophole(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    assert load_run(folder).modes == []
    logged = {
        "train/exit_code/loophole": 0.2, "router/exit_code/w_loophole": 0.6, "router/exit_code/w_clean": 0.1,
        "train/run_tests/loophole": 0.4, "router/run_tests/w_loophole": 0.9, "router/run_tests/auroc": 0.8,
    }  # fmt: skip
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(jsonl([{"step": step, "data": logged} for step in range(3)]))
    labels = {"exploited": True, "correct": False, "can_compile": True}
    answers = [
        {"side": side, "problem_id": i, "mode": mode, "loophole": side == "on" or i == 0, **labels}
        for side in ("on", "off")
        for mode in ("run_tests", "exit_code")
        for i in range(4)
    ]
    answers[0]["reason"] = "time: more than cpu_s=4 of CPU, at assert 1 of 2, `...`"
    (folder / "eval" / "samples.jsonl").write_text(jsonl(answers))
    assert load_run(folder).modes == ["exit_code", "run_tests"]
    text = write_report([folder], tmp_path / "out").read_text()
    assert "| exit_code | 1.000 | 1.000 | 0.000 | 1.000 | 0.250 |" in text
    assert "| not correct because | time |\n| --- | --- |\n| ON | 0.125 |\n| OFF | 0.000 |" in text
    assert "nano-router-s3-loopholes.png" in pngs(tmp_path / "out")
    assert "](plots/nano-router-s3-loopholes.png)" in text
