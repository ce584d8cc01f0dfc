"""Statements beside asserts are carried into the asserts, or refuse the problem with their line."""

import pytest

from reward import SandboxLimits
from reward.problems.check_functions import carry
from reward.problems.filters import by_solution
from reward.problems.forms.known import to_problem

CARRIED = {
    "a value and a message": (
        "x = [1, 2]\nexpected = 3\nassert candidate(x) == expected, f'got {candidate(x)}'",
        ["f([1, 2]) == 3"],
    ),
    "several lines": ("assert candidate(\n    1,\n) == (\n    2\n), (\n    'message'\n)", ["f(1) == 2"]),
    "a loop": (
        "for a, b in [(1, 2), (2, 4)]:\n    assert candidate(a) == b",
        ["f(1) == 2", "f(2) == 4"],
    ),
    "loops in loops": (
        "for i in range(1, 3):\n    for j in (5,):\n        assert candidate(i, j) == 7",
        ["f(1, 5) == 7", "f(2, 5) == 7"],
    ),
    "enumerate, zip and an index": (
        "xs = [[1], [2]]\nwant = [3, 4]\nfor i, (x, w) in enumerate(zip(xs, want)):\n    assert candidate(*x) == w == want[i]",
        ["f(*[1]) == 3 == 3", "f(*[2]) == 4 == 4"],
    ),
    "cases in dicts": (
        "cases = [{'in': 1, 'out': 2}]\nfor c in cases:\n    got = candidate(c['in'])\n    print(got)\n    assert got == c['out']",
        ["f(1) == 2"],
    ),
    "items of a dict": (
        "for k, v in {'a': 1}.items():\n    assert candidate(k) == v",
        ["f('a') == 1"],
    ),
    "a local name for the function": (
        "g = candidate\nassert not g(0)\nassert g(n=1) in (2, 3)",
        ["not f(0)", "f(n=1) in (2, 3)"],
    ),
    "a value turned round, and joined": (
        "assert 2 == candidate(1) and candidate(2) == 4",
        ["f(1) == 2", "f(2) == 4"],
    ),
    "all of a comprehension": (
        "assert all(candidate(x) == y for x, y in zip([1, 2], [2, 4]))",
        ["f(1) == 2", "f(2) == 4"],
    ),
    "a list of answers": (
        "got = [candidate(x) for x in (1, 2)]\nassert got == [2, 4]",
        ["f(1) == 2", "f(2) == 4"],
    ),
    "a condition that is known": (
        "for x in (1, 2):\n    if x > 1:\n        assert candidate(x) == 4\n    else:\n        assert candidate(x) == 2",
        ["f(1) == 2", "f(2) == 4"],
    ),
    "near": ("assert abs(candidate(1) - 2.0) < 1e-6", ["abs(f(1) - 2.0) < 1e-06"]),
    "an answer used twice": (
        "got = candidate(5)\nassert isinstance(got, int) and got == 10\nassert got[0] < got[1]",
        ["isinstance(f(5), int)", "f(5) == 10", "(lambda answer: answer[0] < answer[1])(f(5))"],
    ),
    "an answer unpacked": (
        "a, b = candidate(5)\nassert a < b",
        ["(lambda answer: answer[0] < answer[1])(f(5))"],
    ),
    "a name that a comprehension binds itself": (
        "x = 3\nassert candidate(x) == [x for x in (1, 2)]",
        ["f(3) == [x for x in (1, 2)]"],
    ),
    "a name that changes": ("x = 1\nx += 2\ny = z = x\nassert candidate(y) == z", ["f(1 + 2) == 1 + 2"]),
    "what says nothing": ("'''doc'''\npass\nassert True, 'message'\nassert candidate(1) == 2", ["f(1) == 2"]),
    "in place": (
        "nums = [2, 1]\ncandidate(nums)\nassert nums == [1, 2]",
        ["(lambda changed: (f(changed), changed)[1])([2, 1]) == [1, 2]"],
    ),
    "a value drawn once": (
        "import random\nx = random.random()\nassert candidate(x) == 1",
        ["f(random.random()) == 1"],
    ),
}


def check(body):
    return "def check(candidate):\n" + "".join(f"    {line}\n" for line in body.splitlines())


@pytest.mark.parametrize("name", CARRIED)
def test_what_stands_beside_asserts_is_carried(name):
    body, asserts = CARRIED[name]
    assert carry(check(body), "f").asserts == [f"assert {text}" for text in asserts]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("while True:\n    assert candidate(1) == 2", "line 2: 'while True:' is a statement (While)"),
        ("try:\n    candidate(-1)\nexcept ValueError:\n    pass", "line 2: 'try:' is a statement (Try)"),
        ("x = []\nx.append(1)\nassert candidate(x) == 1", "line 3: 'x.append(1)' does something"),
        ("x = [1]\nx[0] = 2\nassert candidate(x) == 1", "line 3: 'x[0] = 2' changes a value in place"),
        ("x = randint(1, 9)\nassert candidate(x) == x", "uses 'x' again"),
        ("assert candidate(1) == candidate(2)", "calls f 2 times"),
        ("assert 1 == 1", "does not call f"),
        (
            "xs = make()\nfor x in xs:\n    assert candidate(x) == 1",
            "goes over values that are not written out",
        ),
        ("for a, b in [(1, 2, 3)]:\n    assert candidate(a) == b", "unpacks 3 values into 2 names"),
        ("if flag:\n    assert candidate(1) == 2", "is a statement (If)"),
        ("assert candidate(x := 1) == x", "inside of an expression"),
        ("for x in range(10 ** 9):\n    assert candidate(x) == 1", "not written out"),
        ("assert candidate(1) ==", "is not Python"),
        ("xs = make()\nassert sum(candidate(x) for x in xs) == 3", "for each member"),
        ("with raises(ValueError):\n    candidate(1)", "is a statement (With)"),
    ],
)
def test_what_cannot_be_carried_is_refused_with_its_line(body, words):
    with pytest.raises(ValueError) as caught:
        carry(check(body), "f")
    assert words in str(caught.value)


def test_definitions_go_where_they_are_needed():
    """What only the judging needs does not enter the process of a response."""
    test = (
        "import math\nfrom functools import *\nfrom solution import f\nTOLERANCE = 0.1\n"
        "def wrap(x): return [x]\ndef near(a, b): return math.isclose(a, b, abs_tol=TOLERANCE)\n"
        "def secret(x): return 2 * x\ndef close(a, b): assert near(a, b)\n"
        "def check(candidate):\n    assert candidate(wrap(1)) == secret(1)\n    close(candidate(2), 4.0)\ncheck(f)\n"
    )
    found = carry(test, "f")
    assert found.asserts == ["assert f(wrap(1)) == secret(1)", "assert (close(f(2), 4.0), True)[1]"]
    assert "def wrap" in found.setup and "secret" not in found.setup and "near" not in found.setup
    assert all(
        word in found.judge
        for word in ("def secret", "def close", "def near", "TOLERANCE = 0.1", "import math")
    )
    assert "solution" not in found.setup + found.judge and "from functools import *" in found.setup


def test_tests_without_a_check_function():
    assert carry(
        "def test_a():\n    assert f(1) == 2\ndef test_b():\n    x = 2\n    assert f(x) == 4", "f"
    ).asserts == [
        "assert f(1) == 2",
        "assert f(2) == 4",
    ]
    assert carry("x = 2\nassert f(x) == 4", "f").asserts == ["assert f(2) == 4"]
    for test, words in (
        ("def test_a(tmp_path):\n    assert f(1) == 2", "takes arguments"),
        ("x = 1", "holds no assert"),
    ):
        with pytest.raises(ValueError, match=words):
            carry(test, "f")


def test_a_problem_whose_check_has_helpers_is_graded_by_them():
    test = (
        "def close(a, b):\n    assert abs(a - b) < 0.1\n"
        "def check(candidate):\n    for x, y in zip([1, 2], [2.05, 4.0]):\n        close(candidate(x), y)\n"
        "    got = candidate(3)\n    assert got > 5 and got < 7\n"
    )
    row = {"task_id": "T/1", "prompt": "def f(x):\n    '''Twice x.'''\n", "entry_point": "f", "test": test}
    right, wrong = (
        {**row, "canonical_solution": f"    return {body}\n"} for body in ("2 * x", "2 * x + 0.2")
    )
    problems = [to_problem(right), to_problem({**wrong, "task_id": "T/2"})]
    found = by_solution(problems, SandboxLimits(wall_s=10))
    assert [problem.id for problem in found.kept] == ["T/1"]
    assert "close" in str(problems[0].judge_code) and "close" not in problems[0].setup_code
