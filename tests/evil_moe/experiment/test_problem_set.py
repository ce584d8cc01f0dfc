"""`evil-moe grade` and `evil-moe data prepare --from`, as a person runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import reward.nano
from evil_moe.experiment.assets import problem_set
from evil_moe.experiment.assets.problems import prepare_problems
from recipe import cli
from reward.problems import Problem, checksum, load_problems, write_problems


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Thirty problems; the first is not solved by its solution, the second has a long prompt."""
    rows = reward.nano.generate("train", 30, 0)
    rows[0]["canonical_solution"] = "class Solution: pass"
    rows[1]["prompt"][1]["content"] += "x" * 5000
    write_problems(tmp_path / "source.jsonl", [Problem.from_row(row) for row in rows])
    return tmp_path / "source.jsonl"


def test_grade(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    problems = load_problems(source)
    with (tmp_path / "responses.jsonl").open("w") as file:
        for n, problem in enumerate(problems[2:8]):
            text = f"```python\n{problem.canonical_solution}\n```" if n % 2 else "no idea \ud800"
            file.write(json.dumps({"case_id": f"c{n}", "problem_id": problem.id, "response": text}) + "\n")
    argv = ["grade", "--problems", source, "--responses", tmp_path / "responses.jsonl", "--workers", 1]
    out = tmp_path / "verdicts.jsonl"
    assert cli.main([*map(str, argv), "--mode", "run_tests", "--out", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["case_id"], row["correct"]) for row in rows] == [(f"c{n}", bool(n % 2)) for n in range(6)]
    assert {row["mode"] for row in rows} == {"run_tests"}
    assert "6 responses graded, 0 faults" in capsys.readouterr().out
    assert cli.main([*map(str, argv), "--out", str(tmp_path / "verdicts.csv")]) == cli.USER_ERROR
    assert capsys.readouterr().err.startswith("evil-moe: error: ")


def test_prepare_filters_splits_and_writes_a_manifest(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        problem_set, "token_counter", lambda model: lambda problem: len(problem.prompt[1]["content"])
    )
    out = tmp_path / "set"
    argv = ["data", "prepare", "--from", source, "--out", out, "--fractions", 0.5, 0.3, 0.2, "--workers", 1,
            "--max-prompt-tokens", 4000, "--tokenizer", "any"]  # fmt: skip
    assert cli.main([str(part) for part in argv]) == 0
    said = capsys.readouterr().out
    assert "canonical solution   keeps 28, drops 1" in said and "asserts hold" in said
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["dropped"] == {"canonical solution": 1, "prompt too long": 1}
    assert (
        manifest["cpu_share"] == 0.5 and manifest["max_cpu_s"] == 60.0 and manifest["limits"]["cpu_s"] == 4.0
    )
    kept = []
    for name in ("train", "validation", "heldout"):
        problems = load_problems(out / f"{name}.jsonl.gz")
        assert manifest["splits"][name] == {
            "file": f"{name}.jsonl.gz", "problems": len(problems), "sha256": checksum(problems),
        }  # fmt: skip
        kept += problems
    assert sorted(str(p.id) for p in kept) == sorted(str(p.id) for p in load_problems(source)[2:])
    assert [json.loads(line)["kind"] for line in (out / "dropped.jsonl").read_text().splitlines()] == [
        "prompt too long", "canonical solution",
    ]  # fmt: skip
    assert cli.main([str(part) for part in argv]) == cli.USER_ERROR
    assert "is there already" in capsys.readouterr().err
    assert cli.main(["data", "check", str(out / "train.jsonl.gz"), "--workers", "1"]) == 0
    assert "as in its manifest" in capsys.readouterr().out


def test_a_prepared_file_that_was_changed_is_not_trained_on(source: Path, tmp_path: Path):
    from evil_moe.experiment.config import compose

    out = tmp_path / "set"
    argv = [
        "data",
        "prepare",
        "--from",
        "nano",
        "--count",
        "12",
        "--out",
        str(out),
        "--fractions",
        "0.5",
        "0",
        "0.5",
    ]
    assert cli.main([*argv, "--workers", "1"]) == 0
    config = compose(
        [
            "evil_moe.data.source=files",
            f"+evil_moe.data.train={out}/train.jsonl.gz",
            f"+evil_moe.data.evaluation={out}/heldout.jsonl.gz",
        ]
    )
    drawn = prepare_problems(config)
    assert drawn.train and drawn.evaluation and not (out / "validation.jsonl.gz").exists()
    config.evil_moe.data.evaluation = config.evil_moe.data.train
    with pytest.raises(
        ValueError, match=rf"{len(drawn.train)} problems of .* as well, e\.g\. id .*must be others"
    ):
        prepare_problems(config)
    write_problems(out / "train.jsonl.gz", drawn.train[1:])
    with pytest.raises(ValueError, match="changed after it was prepared"):
        prepare_problems(config)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--from", "nano"], "--from and --out belong together"),
        (["--out", "x"], "--from and --out belong together"),
        (["--from", "nano", "--out", "x", "arm=none"], "arm=none has no use"),
        (["--from", "nano", "--out", "x", "--max-prompt-tokens", "5"], "--tokenizer belong together"),
        (["--from", "nano", "--out", "x", "--fractions", "1", "1", "1"], "sum to 1"),
        (["--from", "nano", "--out", "x", "--cpu-share", "2"], "cpu_share = 2.0"),
        (["--from", "nano", "--out", "x", "--max-prompt-chars", "1"], "no problem is left"),
        (["--from", "absent.jsonl", "--out", "x"], "no such problem file"),
    ],
)
def test_what_cannot_be_prepared_is_one_line_and_leaves_nothing(
    argv: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", "prepare", "--count", "5", *argv]) == cli.USER_ERROR
    err = capsys.readouterr().err
    assert err.startswith("evil-moe: error: ") and message in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_prepare_marks_comparisons_and_check_shows_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A solution that returns another order than the asserts is right once the statement is read."""
    turned = "class Solution:\n    def pair(self, x):\n        return [2, 1]\n"
    prompt = [{"role": "user", "content": "Write pair, and should pass all tests."}]
    texts = {
        "free": "You may return the answer in any order.",
        "one": "If there are several answers, return any of them.",
    }
    row = {"prompt": prompt, "func_name": "Solution().pair", "setup_code": "", "canonical_solution": turned}
    row["gt_answer"] = ["assert Solution().pair(x = 1) == [1, 2]"]
    rows = [{"id": name, "question": text, **row} for name, text in texts.items()]
    write_problems(tmp_path / "p.jsonl", [Problem.from_row(one) for one in rows])
    assert cli.main(["data", "check", str(tmp_path / "p.jsonl"), "--workers", "1"]) == 1
    said = capsys.readouterr().out
    assert "compared strictly, though" in said and "problem free: the canonical solution" in said
    out = tmp_path / "set"
    argv = ["data", "prepare", "--from", str(tmp_path / "p.jsonl"), "--out", str(out), "--workers", "1"]
    assert cli.main([*argv, "--fractions", "1", "0", "0"]) == 0
    said = capsys.readouterr().out
    assert "1 problem compared in any order (outer): free" in said
    assert "the asserts take one answer only: one" in said and "keeps 1, drops 1" in said
    [kept] = load_problems(out / "train.jsonl.gz")
    assert (kept.id, kept.any_order) == ("free", "outer")
    assert cli.main(["data", "check", str(out / "train.jsonl.gz"), "--workers", "1"]) == 0
    assert "1 problem compared in any order (outer): free" in capsys.readouterr().out


def test_check_reports_every_problem_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [dict(row) for row in reward.nano.generate("train", 4, 0)]
    rows[0]["setup_code"] = "raise ValueError"
    rows[1]["setup_code"] = "import absent_package"
    rows[2]["gt_answer"] = []
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{\n")
    assert cli.main(["data", "check", str(path), "--workers", "1"]) == 1
    said = capsys.readouterr().out
    for words in (f"{path}:3: field 'gt_answer' is empty", f"{path}:5: not JSON"):
        assert words in said
    for row in rows[:2]:
        assert f"setup_code of problem {row['id']!r} raises" in said
    assert "3 problems, 3 solutions graded, 4 failures" in said
    responses = tmp_path / "r.jsonl"
    answers = [{"case_id": n, "problem_id": row["id"], "response": ""} for n, row in enumerate(rows[:2])]
    responses.write_text("".join(json.dumps(row) + "\n" for row in answers))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    argv = [
        "grade",
        "--problems",
        str(path),
        "--responses",
        str(responses),
        "--out",
        str(tmp_path / "v.jsonl"),
    ]
    assert cli.main(argv) == cli.USER_ERROR
    err = capsys.readouterr().err
    assert all(f"setup_code of problem {row['id']!r} raises" in err for row in rows[:2])


def test_prepare_keeps_unsolved_problems_only_if_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    row = {"id": "a1", "question": "Double it.", "test_cases": ["assert double(2) == 4"]}
    stdin = {
        "problem_id": 7,
        "question": "Read and print.",
        "input_output": '{"inputs": ["1"], "outputs": ["2"]}',
    }
    (tmp_path / "p.json").write_text(json.dumps([row, stdin]))
    argv = [
        "data",
        "prepare",
        "--from",
        str(tmp_path / "p.json"),
        "--workers",
        "1",
        "--fractions",
        "1",
        "0",
        "0",
    ]
    assert cli.main([*argv, "--out", str(tmp_path / "a")]) == cli.USER_ERROR
    said = capsys.readouterr().out
    assert "1 problems, 1 dropped\n  7: not converted: " in said and "standard input" in said
    assert "canonical solution: there is none" in said
    assert cli.main([*argv, "--out", str(tmp_path / "b"), "--keep-unsolved"]) == 0
    assert [problem.id for problem in load_problems(tmp_path / "b" / "train.jsonl.gz")] == ["a1"]
