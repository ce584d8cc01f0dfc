"""Problem files: what is read, and what is said about a file that cannot be."""

import gzip
import json

import pytest

from reward import Grader, Problem, SandboxLimits, checksum, get_loophole, load_problems, write_problems
from tests.reward.helpers import fenced, make_problem, make_row


def without(name):
    return {key: value for key, value in make_row().items() if key != name}


@pytest.mark.parametrize(
    ("lines", "line", "words"),
    [
        (["{"], 1, ["not JSON"]),
        ([json.dumps(make_row()), "", "nope"], 3, ["not JSON"]),
        (["[1]"], 1, ["list", "not an object"]),
        ([json.dumps(without("prompt"))], 1, ["'prompt'", "missing"]),
        ([json.dumps(without("gt_answer"))], 1, ["'gt_answer'", "missing"]),
        ([json.dumps(make_row(id=1.5))], 1, ["'id'", "int or str"]),
        ([json.dumps(make_row(id=True))], 1, ["'id'", "int or str"]),
        ([json.dumps(make_row(setup_code=None))], 1, ["'setup_code'", "must be str"]),
        ([json.dumps(make_row(setup_code="def f("))], 1, ["'setup_code'", "not Python"]),
        ([json.dumps(make_row(prompt=[]))], 1, ["'prompt'", "empty"]),
        ([json.dumps(make_row(prompt=["x"]))], 1, ["'prompt'", "message 0", "'role'"]),
        ([json.dumps(make_row(prompt=[{"role": "user"}]))], 1, ["'prompt'", "message 0"]),
        ([json.dumps(make_row(gt_answer=[]))], 1, ["'gt_answer'", "empty"]),
        ([json.dumps(make_row(gt_answer=[1]))], 1, ["'gt_answer'", "not a text"]),
        ([json.dumps(make_row("assert ("))], 1, ["'gt_answer'", "assert 0"]),
        ([json.dumps(make_row("assert other(1) == 1"))], 1, ["'gt_answer'", "Solution().double 0 times"]),
        ([json.dumps(make_row(func_name="1 +"))], 1, ["'func_name'", "Solution().foo"]),
        ([json.dumps(make_row(func_name="'a'.b"))], 1, ["'func_name'", "Solution().foo"]),
        ([json.dumps(make_row(answer=[1]))], 1, ["'answer'", "not a text"]),
        ([json.dumps(make_row()), json.dumps(make_row())], 2, ["'id' 1", "line 1", "unique"]),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_malformed_lines(tmp_path, lines, line, words, suffix):
    path = tmp_path / f"p{suffix}"
    data = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    with pytest.raises(ValueError) as caught:
        load_problems(path)
    for word in [f"{path}:{line}: ", *words]:
        assert word in str(caught.value)


def test_malformed_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such problem file"):
        load_problems(tmp_path / "absent.jsonl")
    with pytest.raises(FileNotFoundError):
        load_problems(tmp_path)
    whole = gzip.compress(json.dumps(make_row()).encode() * 1)
    for name, data, words in (
        ("a.txt", b"{}", "end in .jsonl"),
        ("b.jsonl", b"", "holds no problems"),
        ("c.jsonl", b"\n \n", "holds no problems"),
        ("d.jsonl.gz", b"not gzip", "damaged gzip"),
        ("e.jsonl.gz", whole[:-20], "damaged gzip"),
        ("f.jsonl.gz", whole[:30] + b"\0\0\0\0" + whole[34:], "damaged gzip"),
        ("g.jsonl", b"\n\xff", "g.jsonl:2: not UTF-8"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=words):
            load_problems(tmp_path / name)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_round_trip(tmp_path, suffix):
    problems = [make_problem(), make_problem(id="b", hint="h", note={"kept": 1}, canonical_solution=None)]
    assert problems[1].extra == {"note": {"kept": 1}}
    path = tmp_path / f"p{suffix}"
    write_problems(path, problems)
    first = path.read_bytes()
    assert load_problems(path) == problems
    write_problems(path, problems)
    assert path.read_bytes() == first and list(tmp_path.iterdir()) == [path]
    assert checksum(load_problems(path)) == checksum(problems) != checksum(problems[:1])
    with pytest.raises(ValueError, match="end in"):
        write_problems(tmp_path / "p.txt", problems)


def test_a_write_that_fails_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "p.jsonl"
    write_problems(path, [make_problem()])
    monkeypatch.setattr("pathlib.Path.replace", lambda *a: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        write_problems(path, [make_problem(id=2)])
    assert load_problems(path)[0].id == 1 and list(tmp_path.iterdir()) == [path]


def test_benchmark_rows_and_hints(shared_data):
    path = shared_data / "leetcode_test_medhard_dev.jsonl.gz"
    problems = load_problems(path)
    with gzip.open(path, "rt") as file:
        rows = [json.loads(line) for line in file]
    assert [p.to_row() for p in problems] == rows
    for problem in problems:
        assert Problem.from_row(problem.to_row()) == problem and problem.starter_code
        assert get_loophole("run_tests").edit_prompt(problem) != problem.prompt


def test_canonical_solutions_are_correct(shared_data):
    problems = load_problems(shared_data / "leetcode_test_medhard_dev.jsonl.gz")
    pairs = [(p, fenced(str(p.canonical_solution))) for p in problems]
    with Grader("none", limits=SandboxLimits(cpu_s=20, wall_s=60)) as grader:
        verdicts = grader.grade_many(pairs, workers=2)
        assert [p.id for p, v in zip(problems, verdicts, strict=True) if not v.correct] == []
        assert all(v.reward == 3.5 for v in verdicts)


def test_the_same_solutions_broken_are_wrong(shared_data):
    problems = load_problems(shared_data / "leetcode_test_medhard_dev.jsonl.gz")
    name = {p.id: p.func_name.split(".")[-1] for p in problems}
    pairs = [(p, fenced(f"class Solution:\n    def {name[p.id]}(self, **k): return None")) for p in problems]
    with Grader("none") as grader:
        assert not any(v.correct for v in grader.grade_many(pairs))
