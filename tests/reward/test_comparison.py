"""What counts as the same answer: order that is free, tolerances, and hostile data."""

import random
import time

import pytest

from reward import Grader
from reward.comparison import Comparison
from reward.sandbox import codec
from tests.reward.helpers import fenced, make_problem

OUTER, INNER, ALL = (Comparison(order) for order in ("outer", "inner", "all"))
NEAR = Comparison(tolerance=1e-5)


def same(how, expected, got):
    return how.same(codec.encode(expected), codec.encode(got))


@pytest.mark.parametrize(
    ("how", "expected", "right", "wrong"),
    [
        (OUTER, [1, 2, 2], [[2, 1, 2], [2.0, 2, 1]], [[1, 1, 2], [1, 2], [1, 2, 2, 2], [True, 2, 2], (1, 2, 2), 5]),
        (OUTER, [[1, 2], [3]], [[[3], [1, 2]]], [[[3], [2, 1]], [[1], [2, 3]]]),
        (OUTER, (1, "a", None), [(None, 1, "a")], [[None, 1, "a"], (0, 1, "a")]),
        (OUTER, ["ab", "c"], [["c", "ab"]], [["c", "ba"], ["abc", ""], ['c","ab', ""]]),
        (OUTER, [1, True, "1"], [["1", 1, True]], [[1, 1, "1"]]),
        (OUTER, [{1, 2}, {3: 4}], [[{3: 4}, {2, 1}]], [[{3: 5}, {1, 2}]]),
        (OUTER, [10**5000, 1], [[1, 10**5000]], [[1, 10**5000 + 1]]),
        (OUTER, [float("nan")], [], [[float("nan")]]),
        (OUTER, 4, [4, 4.0], [5, [4]]),
        (INNER, [[1, 2], [3, 4]], [[[2, 1], [4, 3]]], [[[3, 4], [1, 2]], [[1, 3], [2, 4]]]),
        (ALL, [[1, 2], [3, 4]], [[[4, 3], [2, 1]], [[1, 2], [3, 4]]], [[[1, 3], [2, 4]]]),
        (ALL, [[[1], [2, 3]], []], [[[], [[3, 2], [1]]]], [[[], [[3], [1, 2]]]]),
        (NEAR, 2.0, [2.00001, 1.999995, 2], [2.00002, "2.0", True]),
        (NEAR, [[0.5, 3], "x"], [[[0.500001, 3.0], "x"]], [[[0.500001, 4], "x"], ["x", [0.5, 3]]]),
        (NEAR, 10**400, [10**400], [1.5, 10**400 + 1, float("inf")]),
        (NEAR, 1e6, [1e6 + 1e-6], [1e6 + 1]),
        (NEAR, float("inf"), [float("inf")], [1e308, -float("inf"), float("nan")]),
        (NEAR, {0.1, 0.3}, [{0.300001, 0.1}], [{0.1, 0.4}]),
        (Comparison(relative_tolerance=1e-6), 1e9, [1e9 + 900], [1e9 + 1100, 0]),
        (Comparison("outer", 1e-5), [0.1, 2.5, 0.1], [[2.500001, 0.1, 0.100009]], [[2.5, 2.5, 0.1], [0.1, 2.5]]),
        (Comparison("outer", 1e-5), [[0.1, 5], [0.100001, 3]], [[[0.1, 3], [0.100001, 5]]], [[[0.1, 3], [0.1, 3]]]),
        (Comparison("all", 1e-5), [[2.0, 1.0], [5.0, 0.5]], [[[0.5, 5], [1, 2.000001]]], [[[0.5, 2], [1, 5]]]),
    ],
)  # fmt: skip
def test_what_is_the_same(how, expected, right, wrong):
    assert same(how, expected, expected) == (not isinstance(expected, list) or expected[0] == expected[0])
    for got in right:
        assert same(how, expected, got), got
    for got in wrong:
        assert not same(how, expected, got), got


def test_a_strict_comparison_is_the_codecs():
    assert Comparison().strict and not OUTER.strict and not NEAR.strict
    assert not same(Comparison(), [1, 2], [2, 1]) and not same(Comparison(), 0.1 + 0.2, 0.3)
    assert Comparison("all", 1e-5).describe() == "in any order (all), within 1e-05"


def test_large_and_hostile_answers_cost_little():
    """Colliding hashes, deep data and tags that no encoder makes: none may cost more than its size, or raise."""
    draw = random.Random(0)
    numbers = list(range(100_000))
    floats = [[n, n / 7] for n in range(10_000)]
    deep: list = []
    for _ in range(900):
        deep = [deep]
    collide = [n * (2**61 - 1) for n in range(100_000)]
    began = time.process_time()
    for how, expected in ((OUTER, numbers), (Comparison("outer", 1e-5), floats)):
        got = draw.sample(expected, len(expected))
        assert how.same(expected, got) and not how.same(expected, [*got[1:], got[1]])
    assert not OUTER.same(numbers, collide)
    for how in (OUTER, ALL, NEAR, Comparison("all", 1e-5)):
        for got in (deep, [deep, 1], {"t": "tuple"}, {"t": []}, [{"t": "set", "v": 3}, {}], [{"v": deep}, 1]):
            assert not how.same([[1, 2], 3], got) and not how.same({"t": "tuple", "v": [1]}, got)
    assert time.process_time() - began < 10
    huge, began = [[[0] * 3_000_000, 1], 3], time.process_time()
    for how in (ALL, Comparison("all", 1e-5)):
        assert not how.same([[1, 2], 3], huge) and not how.same([[[1], 2], 3], huge)
    assert time.process_time() - began < 0.5, "a large answer is refused by its size"


def test_the_oracle_compares_as_the_problem_says():
    """Literals, expressions that are no literal, on either side; strictly without a mark."""
    asserts = (
        "assert Solution().double(x = 3) == [1, 2, 3]",
        "assert Solution().double(x = 2) == list(range(1, 3))",
        "assert [v + 1 for v in (0, 1)] == Solution().double(x = 2)",
        "assert len(Solution().double(x = 2)) == 2",
    )
    turned = fenced("class Solution:\n    def double(self, x):\n        return list(range(x, 0, -1))")
    other = fenced("class Solution:\n    def double(self, x):\n        return [1] * x")
    off = fenced(
        "class Solution:\n    def double(self, x):\n        return [v + 1e-7 for v in range(1, x + 1)]"
    )
    with Grader("none") as grader:
        for changes, correct in (({}, [False] * 3), ({"any_order": True}, [True, False, False]),
                                 ({"tolerance": 1e-5}, [False, False, True]), ({"any_order": False}, [False] * 3)):  # fmt: skip
            problem = make_problem(*asserts, **changes)
            assert [grader.grade(problem, text).correct for text in (turned, other, off)] == correct, changes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"any_order": "some"}, "'any_order' is 'some'; it must be outer, inner, all"),
        ({"tolerance": -1}, "'tolerance' is -1; it must be a number from 0"),
        ({"tolerance": float("nan")}, "'tolerance' is nan"),
        ({"relative_tolerance": "1"}, "'relative_tolerance' is str"),
        ({"cpu_s": 0}, "'cpu_s' is 0; it must be a number of seconds"),
        ({"cpu_s": 1e9}, "at most 600"),
        ({"tolerance": True}, "'tolerance' is bool"),
    ],
)
def test_marks_that_mean_nothing(changes, words):
    with pytest.raises(ValueError, match=words):
        make_problem(**changes)


def test_a_row_without_marks_stays_as_it_was():
    row = make_problem().to_row()
    assert not {"any_order", "tolerance", "relative_tolerance", "cpu_s"} & row.keys()
    marked = make_problem(any_order=True, tolerance=1e-5, cpu_s=12)
    assert {**row, "any_order": "outer", "tolerance": 1e-5, "cpu_s": 12} == marked.to_row()
    assert type(marked).from_row(marked.to_row()) == marked
