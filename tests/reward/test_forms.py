"""Files of problems in other forms: each is converted and its solution is right, or refused by the form's name."""

import base64
import gzip
import json
import pickle
import zlib

import pytest

from reward import SandboxLimits, load_problems
from reward.problems.files import read_problems
from reward.problems.filters import by_solution
from reward.problems.forms.known import to_problem
from reward.problems.sources import load_source
from tests.reward.helpers import make_row

METHOD = "class Solution:\n    def double(self, x: int) -> int:\n        return 2 * x\n"
STARTER = "class Solution:\n    def double(self, x: int) -> int:\n        "
FUNCTION = "def double(x):\n    return 2 * x\n"
PAIRS = {"inputs": [[1], [5]], "outputs": [2, 10]}
NAMED = {**PAIRS, "fn_name": "double"}
STDIN = {"inputs": ["1\n"], "outputs": ["2\n"]}
LCB = [
    {"input": "1", "output": "2", "testtype": "functional"},
    {"input": "5", "output": "10", "testtype": "functional"},
]
CASES = [{"type": "function_call", "fn_name": "double", "input": [1], "output": 2}]
PACKED = base64.b64encode(zlib.compress(pickle.dumps(json.dumps(LCB[1:])))).decode()
MESSAGES = [{"role": "user", "content": "Write double, which doubles x."}]
LEETCODE = {
    "task_id": "double", "question_id": 7, "difficulty": "Easy", "tags": ["Math"], "problem_description": "Double x.",
    "starter_code": STARTER, "prompt": "import math\nfrom typing import *\n", "completion": METHOD,
    "entry_point": "Solution().double", "test": "def check(candidate):\n    assert candidate(x = 1) == 2\n",
    "input_output": [{"input": "x = 1", "output": "2"}], "query": "", "response": "",
}  # fmt: skip
HUMANEVAL = {
    "task_id": "HumanEval/900",
    "prompt": "from typing import List\n\n\ndef half(x: List[int]):\n    return [v // 2 for v in x]\n\n\n"
    "def double(x: List[int]) -> List[int]:\n    ''' Double them.\n    >>> double([1])\n    [2]\n    '''\n",
    "entry_point": "double",
    "canonical_solution": "    return [2 * v for v in x]\n",
    "test": "\n\nMETADATA = {\n    'author': 'x'\n}\n\n\ndef check(candidate):\n    assert candidate([1, 2]) == [2, 4], 'two'\n"
    "    for x in [[3], []]:\n        assert candidate(half(x)) == [2 * v for v in half(x)]\n    assert True\n",
}
MBPP = {
    "task_id": 601, "text": "Write a function to double a number.", "code": FUNCTION.replace("\n", "\r\n"),
    "test_list": ["assert double(1) == 2", "assert set([double(5)]) == {10}"], "test_setup_code": "", "challenge_test_list": [],
}  # fmt: skip
APPS = {
    "problem_id": 4, "question": "Double x.", "solutions": json.dumps([METHOD]), "starter_code": STARTER, "url": "u",
    "input_output": json.dumps({"fn_name": "double", "inputs": [[1], [5]], "outputs": [[2], [10]]}), "difficulty": "interview",
}  # fmt: skip
TACO = {**{k: v for k, v in APPS.items() if k != "problem_id"}, "input_output": json.dumps(NAMED), "raw_tags": "[]", "time_limit": None}  # fmt: skip
LIVE = {
    "question_title": "t", "question_content": "Double x.", "platform": "leetcode", "question_id": "3", "contest_id": "c",
    "contest_date": "d", "starter_code": STARTER, "difficulty": "easy", "public_test_cases": json.dumps(LCB[:1]),
    "private_test_cases": PACKED, "metadata": json.dumps({"func_name": "double"}),
}  # fmt: skip
VERL = {
    "data_source": "codes", "prompt": MESSAGES, "ability": "code", "extra_info": {"split": "train", "index": 3, "solution": FUNCTION},
    "reward_model": {"style": "rule", "ground_truth": json.dumps(NAMED)},
}  # fmt: skip
DEEP = {"problem": "Double x.", "tests": json.dumps(NAMED), "solutions": [FUNCTION]}
SYNTHETIC = {
    "problem_id": "p_1", "task_type": "verifiable_code", "prompt": "Double x.", "gold_standard_solution": FUNCTION,
    "verification_info": json.dumps({"language": "python", "test_cases": CASES}), "metadata": {}, "source": "apps",
}  # fmt: skip
KOD = {
    "question_id": "K1", "question": "Double x.", "solution": FUNCTION, "test_info": [{"function_name": "double"}],
    "test": "from solution import double\n\ndef test_one():\n    assert double(1) == 2\n",
}  # fmt: skip
FUNCTIONAL = {"functional": "def check(candidate):\n    assert candidate(x = 1) == 2\n"}

CONVERTED = {
    "LeetCodeDataset": LEETCODE,
    "LeetCodeDataset without its later fields": {k: LEETCODE[k] for k in ("task_id", "prompt", "completion", "entry_point", "test")} | {"query": "Double x."},
    "HumanEval": HUMANEVAL,
    "HumanEval with a whole solution": HUMANEVAL | {"canonical_solution": "def double(x):\n    return [2 * v for v in x]\n"},
    "MBPP": MBPP,
    "MBPP sanitized": {"task_id": 602, "prompt": "Double.", "code": FUNCTION, "test_imports": ["import math"], "test_list": ["assert math.isclose(double(1.5), 3)"]},
    "APPS": APPS,
    "TACO": TACO,
    "LiveCodeBench": LIVE,
    "verl": VERL,
    "verl with a check": VERL | {"reward_model": {"style": "rule", "ground_truth": json.dumps(FUNCTIONAL)}},
    "verl of this project": VERL | {"reward_model": {"style": "rule", "ground_truth": json.dumps(make_row())}},
    "DeepCoder": DEEP,
    "DeepCoder of LiveCodeBench": DEEP | {"tests": json.dumps(LCB), "metadata": {"func_name": "double"}},
    "DeepCoder of PrimeIntellect": DEEP | {"tests": json.dumps(CASES)},
    "DeepCoder as rLLM writes it": {"question": "Double.", "ground_truth": json.dumps(LCB), "uid": "u1", "metadata": {"func_name": "double"}, "solutions": [METHOD]},
    "SYNTHETIC-1": SYNTHETIC,
    "AceCode": {"id": "a1", "question": "Double.", "source": "s", "test_cases": ["assert double(2) == 4", "assert double(0) == 0"]},
    "KodCode": KOD,
}  # fmt: skip


def test_rows_of_known_forms_are_problems_that_their_solutions_solve():
    problems = [to_problem(row, f"{name}:1") for name, row in CONVERTED.items()]
    for name, problem in zip(CONVERTED, problems, strict=True):
        text = "".join(message["content"] for message in problem.prompt)
        assert text.count("and should pass all tests") == 1, f"{name}: the place of the hints"
        assert problem.question.strip() and problem.gt_answer, name
    found = by_solution(problems, SandboxLimits(wall_s=10))
    unsolved = ["LiveCodeBench", "AceCode"]  # come without a solution
    assert [str(item.reason) for item in found.dropped] == ["canonical solution: there is none"] * len(
        unsolved
    )
    assert len(problems[list(CONVERTED).index("LiveCodeBench")].gt_answer) == 2, "public and private tests"


class Harmful:
    def __reduce__(self):
        return eval, ("1/0",)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"name": "1_A", "description": "d", "public_tests": {}, "solutions": {}}, ["CodeContests", "standard input"]),
        (APPS | {"input_output": json.dumps(STDIN)}, ["APPS", "standard input", "asserts on calls"]),
        (TACO | {"input_output": json.dumps(STDIN)}, ["TACO", "standard input"]),
        (APPS | {"input_output": "{"}, ["APPS", "'input_output' is not JSON"]),
        (APPS | {"input_output": json.dumps(NAMED | {"outputs": [1]})}, ["2 inputs and 1 outputs"]),
        (LIVE | {"public_test_cases": json.dumps([{**LCB[0], "testtype": "stdin"}])}, ["LiveCodeBench", "standard input"]),
        (LIVE | {"private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(Harmful()))).decode()}, ["eval, not a text"]),
        (LIVE | {"private_test_cases": "!!"}, ["LiveCodeBench", "'private_test_cases'"]),
        (VERL | {"reward_model": {"style": "rule", "ground_truth": "72"}}, ["verl", "'72'", "only code"]),
        (VERL | {"reward_model": {"style": "rule", "ground_truth": json.dumps(STDIN)}}, ["verl", "standard input"]),
        (VERL | {"reward_model": {"ground_truth": '{"assert_case": ["assert f()"]}'}}, ["verl", "as MBPP does"]),
        (DEEP | {"tests": json.dumps([{"type": "stdin_stdout", "input": "1", "output": "2"}])}, ["DeepCoder", "standard input"]),
        (SYNTHETIC | {"verification_info": '{"answer": "3"}'}, ["SYNTHETIC-1", "code problems"]),
        (HUMANEVAL | {"test": "class TestCases(unittest.TestCase): pass"}, ["HumanEval", "no function check"]),
        (HUMANEVAL | {"test": "def check(candidate):\n    while x: pass\n"}, ["HumanEval", "line 2", "While"]),
        (MBPP | {"test_list": ["assert 1 =="]}, ["MBPP", "not Python"]),
        (LEETCODE | {"completion": 5}, ["LeetCodeDataset", "'canonical_solution'"]),
        ({"instruction": "x", "output": "y"}, ["no form that is known", "'instruction', 'output'", "Known are LeetCodeDataset", "gt_answer"]),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_converted_name_their_form_and_the_reason(row, words):
    with pytest.raises(ValueError) as caught:
        to_problem(row, "here:3")
    assert str(caught.value).startswith("here:3: ")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "json", "json.gz", "parquet", "lines.json"])
def test_files_come_in_several_formats(tmp_path, ending):
    rows = [LEETCODE, LEETCODE | {"question_id": 8, "test": None}]
    path = tmp_path / f"p.{ending}"
    lines = "\n".join(map(json.dumps, rows)).encode()
    if ending == "parquet":
        pyarrow, parquet = map(pytest.importorskip, ("pyarrow", "pyarrow.parquet"))
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif "lines" in ending or "jsonl" in ending:
        path.write_bytes(gzip.compress(lines) if ending.endswith("gz") else lines)
    else:
        text = json.dumps(rows).encode()
        path.write_bytes(gzip.compress(text) if ending.endswith("gz") else text)
    assert [problem.id for problem in load_problems(path)] == [7, 8]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.json", b"nothing", "is not JSON"),
        ("b.json", b'"text"', "is a JSON str"),
        ("c.json.gz", b"nothing", "damaged gzip"),
        ("d.parquet", b"nothing", "cannot be read as Parquet"),
        ("e.csv", b"", "must end in .jsonl"),
        ("f.json", b"[]", "holds no problems"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=words):
        load_problems(tmp_path / name)


def test_everything_that_is_wrong_with_a_file_is_said_at_once(tmp_path):
    path = tmp_path / "p.jsonl"
    bad = [
        make_row(id="a", gt_answer=[]),
        "{",
        make_row(id="b", setup_code="def f("),
        make_row(id="c"),
        make_row(id="c"),
    ]
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in bad))
    with pytest.raises(ValueError) as caught:
        load_problems(path)
    said = str(caught.value).splitlines()
    assert said[0] == f"{path}: 4 of its 5 rows cannot be used:" and len(said) == 5
    for line, (number, word) in zip(
        said[1:], [(1, "'gt_answer'"), (2, "not JSON"), (3, "'setup_code'"), (5, "line 4")], strict=True
    ):
        assert line.startswith(f"  {path}:{number}: ") and word in line
    with pytest.raises(ValueError, match="4 of its 5 rows"):
        load_source(str(path), 0, 0)
    path.write_text("\n".join(json.dumps(make_row(id=n, any_order=f"{n}")) for n in range(30)))
    with pytest.raises(ValueError) as caught:
        load_problems(path)
    assert str(caught.value).splitlines()[-1] == "  ... and 10 more"
    path.write_text("\n".join(json.dumps(make_row(id=n, prompt=[])) for n in range(30)))
    with pytest.raises(ValueError) as caught:
        load_problems(path)
    assert f"{path}:1, 2, 3, 4, 5, 6 and 24 more: field 'prompt' is empty" in str(caught.value)


def test_rows_of_another_form_that_cannot_be_converted_are_dropped_with_their_reason(tmp_path):
    path = tmp_path / "p.jsonl"
    rows = [
        MBPP,
        HUMANEVAL | {"test": "def check(c):\n    while c(1): pass\n"},
        APPS | {"input_output": json.dumps(STDIN)},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    source = load_source(str(path), 0, 0)
    assert [problem.id for problem in source.problems] == [601]
    assert [(item.id, item.kind) for item in source.dropped] == [
        ("HumanEval/900", "not converted"),
        (4, "not converted"),
    ]
    assert "line 2" in source.dropped[0].reason and "standard input" in source.dropped[1].reason
    with pytest.raises(ValueError, match="leaves them out, and says why"):
        load_problems(path)
    path.write_text("\n".join(map(json.dumps, rows[1:])))
    with pytest.raises(ValueError, match="2 of its 2 rows cannot be used"):
        load_source(str(path), 0, 0)
    assert len(read_problems(path).refused) == 2
