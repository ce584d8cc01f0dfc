"""Which part of an assert runs beside the response: in-place and design problems."""

import pytest

from reward import Grader
from reward.checks import parse_checks
from tests.reward.helpers import fenced, make_problem, method

DRIVE = """
from collections import *
def drive(ops, args):
    made, out = None, []
    for op, arg in zip(ops, args):
        if made is None:
            made = Counter2(*arg)
            out.append(None)
        else:
            out.append(getattr(made, op)(*arg))
    return out
"""
COUNTER = "class Counter2:\n    n = 0\n    def add(self, n):\n        self.n += n\n    def get(self):\n        return self.n\n"
TRIE = (
    "class Trie:\n    def __init__(self, words=()): self.words = set(words)\n"
    "    def insert(self, word): self.words.add(word)\n    def search(self, word): return word in self.words\n"
)
SORT = "class Solution:\n    def sort(self, nums):\n        nums.sort()\n"
SORTED = "def after(a):\n    Solution().sort(a)\n    return a\n"


@pytest.fixture(scope="module")
def grader():
    with Grader("none") as one:
        assert one.grade(make_problem(), method("return 2 * x")).correct
        yield one


@pytest.mark.parametrize(
    ("func", "setup", "test", "right", "wrong"),
    [
        ("Solution().sort", "", "(lambda a: (Solution().sort(a), a)[1])([2, 0, 1]) == [0, 1, 2]", SORT, ("sort()", "pop()")),
        ("Solution().sort", "", "[0, 1] == (lambda a: Solution().sort(a) or a)([1, 0])", SORT, ("sort()", "pop()")),
        ("Solution().sort", "", "(a := [2, 1], Solution().sort(a), a)[2] == [1, 2]", SORT, ("sort()", "pop()")),
        ("Solution().sort", "", "[(Solution().sort(a), a)[1] for a in ([2, 1], [3])] == [[1, 2], [3]]", SORT, ("sort()", "pop()")),
        ("Solution().sort", SORTED, "after([2, 1]) == [1, 2]", SORT, ("sort()", "pop()")),
        ("after", SORTED, "after(a=[2, 1]) == [1, 2]", SORT, ("sort()", "pop()")),
        ("drive", DRIVE, "drive(['Counter2', 'add', 'get'], [[], [3], []]) == [None, None, 3]", COUNTER, ("+=", "=-")),
        ("Counter2", DRIVE, "drive(['Counter2', 'add', 'get'], [[], [3], []])[-1] == 3", COUNTER, ("+=", "=-")),
        ("Counter2", "", "(lambda c: [c.add(2), c.add(1), c.get()])(Counter2()) == [None, None, 3]", COUNTER, ("+=", "=")),
        ("Counter2", "", "(c := Counter2(), c.add(2), c.get())[2] == 2", COUNTER, ("+=", "=-")),
        ("Solution().sort", "", "(Solution().sort(a := [2, 1]), a)[1] == [1, 2]", SORT, ("sort()", "pop()")),
        ("Counter2", "", "Counter2().get() == 0", COUNTER, ("n = 0", "n = 1")),
        ("Trie", "", "(lambda t: (t.insert('a'), t.search('a')))(Trie()) == (None, True)", TRIE, ("add", "discard")),
        ("Trie", "", "(lambda t: (t.insert('a'), t.search('a'))[1])(Trie())", TRIE, ("add", "discard")),
        ("Trie", "", "Trie(['a']).search('a') is True", TRIE, ("word in", "word not in")),
        ("Solution().f", "", "sorted(map(Solution().f, [2, 1])) == [2, 3]", "class Solution:\n    def f(self, x): return x + 1\n", ("+", "-")),
        ("f", "", "[f(1), f(2)] == [2, 3]", "def f(x): return x + 1\n", ("+", "-")),
    ],
)  # fmt: skip
def test_in_place_and_design(grader, func, setup, test, right, wrong):
    problem = make_problem(f"assert {test}", func_name=func, setup_code=setup)
    assert grader.grade(problem, fenced(right)).correct
    assert not grader.grade(problem, fenced(right.replace(*wrong))).correct


@pytest.mark.parametrize(
    ("func", "setup", "test"),
    [
        ("Solution().sort", "", "(lambda a: (Solution().sort(a), a == [0, 1])[1])([1, 0])"),
        ("Solution().sort", "", "all(Solution().sort(x) == y for x, y in [(1, 2)])"),
        ("Solution().sort", "def same(a, b): return a == b", "(lambda a: (Solution().sort(a), same(a, [1]))[1])([1])"),
        ("sorts", "def sorts(a, want):\n    Solution().sort(a)\n    return a == want", "sorts([2, 1], [1, 2])"),
        ("sorts", "def sorts(a, want):\n    Solution().sort(a)\n    return a == want", "sorts([2, 1], [1, 2]) is True"),
        ("sorts", "def sorts(a, want):\n    Solution().sort(a)\n    return a == want", "not sorts([2, 1], [1, 3])"),
        ("LRU", "", "LRU(2)"),
        ("LRU", "", "(lambda: LRU)"),
        ("Solution().f", "", "Solution().f(1) == Solution().f(1)"),
        ("Solution().f", "", "Solution().f(1) and Solution().f(2)"),
    ],
)  # fmt: skip
def test_what_would_be_decided_beside_the_response_is_refused(func, setup, test):
    with pytest.raises(ValueError, match=r"assert 0 .*(outside of it|calls .* times)"):
        parse_checks((f"assert {test}",), func, setup)


def test_no_expected_value_runs_beside_the_response():
    problem = make_problem(
        "assert (lambda a: (Solution().sort(a), a)[1])([2, 1]) == [77, 78]", func_name="Solution().sort"
    )
    (check,) = parse_checks(problem.gt_answer, problem.func_name, problem.setup_code)
    assert "77" not in check.call and check.expected_data == [77, 78]


def test_a_helper_of_the_setup_is_not_the_responses(grader):
    setup = (
        "def after(a):\n    Solution().sort(a)\n    return list(map(shown, a))\ndef shown(x):\n    return x\n"
    )
    problem = make_problem("assert after([2, 1]) == [1, 2]", func_name="after", setup_code=setup)
    forged = "def shown(x): return 9\ndef list(x): return 9\n"
    assert grader.grade(problem, fenced(SORT + forged)).correct
