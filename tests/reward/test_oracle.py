"""What counts as equal, and who decides it."""

import math
from collections import Counter, deque
from decimal import Decimal
from fractions import Fraction

import pytest

from reward import Grader
from reward.checks import parse_checks
from reward.sandbox import codec
from tests.reward.helpers import fenced, make_problem, method


@pytest.fixture(scope="module")
def grader():
    with Grader("none") as one:
        assert one.grade(make_problem(), method("return 2 * x")).correct
        yield one


@pytest.mark.parametrize(
    ("expected", "returned", "correct"),
    [
        ("1", "1", True),
        ("1", "1.0", True),
        ("1.0", "1", True),
        ("1", "True", False),
        ("True", "1", False),
        ("True", "True", True),
        ("None", "None", True),
        ("None", "0", False),
        ("'a'", "'a'", True),
        ("'a'", "b'a'", False),
        ("-1", "-1", True),
        ("[1, 2]", "[1, 2]", True),
        ("[1, 2]", "(1, 2)", False),
        ("[1, 2]", "[1, 2, 3]", False),
        ("[1, 2]", "range(1, 3)", False),
        ("[[1], []]", "[[1], []]", True),
        ("[[1], []]", "[[True], []]", False),
        ("(1, [2])", "(1, [2])", True),
        ("{3, 20, 100}", "{100, 3, 20}", True),
        ("{3, 20, 100}", "{100, 3, 21}", False),
        ("{3, 20}", "frozenset({3, 20})", True),
        ("{3, 20}", "{3: 1, 20: 1}.keys()", True),
        ("{3, 20}", "[3, 20]", False),
        ("{10, 9, 2}", "{10.0, 9.0, 2}", True),
        ("{1}", "{True}", False),
        ("{10: 'a', 9: 'b'}", "{9.0: 'b', 10: 'a'}", True),
        ("{1: 2}", "defaultdict(int, {1: 2})", True),
        ("2+0j", "complex(2, 0)", True),
        ("2+0j", "2", True),
        ("2", "2+0j", True),
        ("2", "2+1j", False),
        ("b'ab'", "'ab'.encode()", True),
        ("b'ab'", "bytearray(b'ab')", True),
        ("b'ab'", "'ab'", False),
        ("0.5", "__import__('fractions').Fraction(1, 2)", True),
        ("0.5", "__import__('fractions').Fraction(1, 3)", False),
        ("0.5", "__import__('decimal').Decimal('0.5')", True),
        ("5", "__import__('decimal').Decimal('1E+999999')", False),
        ("(1, 2)", "namedtuple('P', 'x y')(1, 2)", True),
        ("[1, 2]", "namedtuple('P', 'x y')(1, 2)", False),
        ("2", "__import__('enum').IntEnum('C', 'A B').B", True),
        ("'a'", "type('S', (str,), {})('a')", True),
        ("'a'", "type('S', (str,), {'__eq__': lambda s, o: True})('a')", False),
        ("[2, 4]", "(n for n in (2, 4))", False),
        ("[1]", "deque([1])", False),
        ("2 ** 20000", "2 ** 20000", True),
        (f"0x{'f' * 5000}", "16 ** 5000 - 1", True),
        (f"[0x{'f' * 5000}, 1]", "[16 ** 5000 - 1, 1]", True),
        (f"0x{'f' * 5000}", "16 ** 5000", False),
        ("{'b': [1], 'a': 2}", "{'a': 2, 'b': [1]}", True),
        ("{'b': 1}", "Counter('b')", True),
        ("{'b': 1}", "{'b': 2}", False),
        ("1", "float('nan')", False),
        (str(10**40), "10**40", True),
        ("'\\ud800'", "'\\ud800'", True),
        ("1", "10**5000", False),
        ("[]", "[[]]", False),
        ("[]", "(lambda a: a.append(a) or a)([])", False),
    ],
)
def test_equality(grader, expected, returned, correct):
    problem = make_problem(f"assert Solution().double(x = 1) == {expected}")
    assert grader.grade(problem, method(f"return {returned}")).correct is correct


def test_other_shapes_are_judged_without_the_response(grader):
    problem = make_problem(
        "assert is_same_list(Solution().double(list_node([1, 2])), list_node([2, 4]))",
        "assert is_same_list(Solution().double(list_node([])), list_node([]))",
        "assert abs(sum_of(Solution().double(list_node([3])))- 6) < 1e-6",
        "assert Solution().double(list_node([1])) is not None and True, 'message'",
        setup_code=make_problem().setup_code + "\ndef sum_of(n):\n    return n.val\n",
    )
    right = (
        "class Solution:\n    def double(self, head):\n        node = head\n        while node:\n"
        "            node.val *= 2\n            node = node.next\n        return head\n"
    )
    assert grader.grade(problem, fenced(right)).correct
    assert not grader.grade(problem, fenced(right.replace("*= 2", "*= 3"))).correct
    # the helpers, the class and the builtins of the judge are not the response's
    forged = (
        "is_same_list = list_node = sum_of = abs = lambda *a: True\nclass ListNode:\n    val = next = None\n"
    )
    assert grader.grade(problem, fenced(right + forged)).correct
    assert not grader.grade(problem, fenced(right.replace("*= 2", "*= 3") + forged)).correct


def test_trees(grader):
    problem = make_problem(
        "assert is_same_tree(Solution().double(tree_node([1, None, 2, 3])), tree_node([2, None, 4, 6]))"
    )
    code = (
        "class Solution:\n    def double(self, n):\n        if n:\n            n.val *= 2\n"
        "            self.double(n.left)\n            self.double(n.right)\n        return n\n"
    )
    assert grader.grade(problem, fenced(code)).correct
    assert not grader.grade(problem, fenced(code.replace("self.double(n.right)", "n.right = None"))).correct
    assert not grader.grade(problem, fenced(code.replace("return n", "return self"))).correct


def test_a_cyclic_list_is_wrong_and_ends(grader):
    problem = make_problem("assert is_same_list(Solution().double(list_node([1])), list_node([1]))")
    response = fenced("class Solution:\n    def double(self, n):\n        n.next = n\n        return n")
    assert not grader.grade(problem, response).correct


def test_values_that_have_no_encoding():
    class Sub(int):
        pass

    deep = []
    for _ in range(100):
        deep = [deep]

    class Own(Sub):
        def __eq__(self, other):
            return True

        __hash__ = int.__hash__

    assert codec.encode([Sub(1), deque([1])]) == [1, {"t": "deque", "v": [1]}]
    for value in (Own(1), object(), [Own(1)], deep, int):
        with pytest.raises(ValueError):
            codec.encode(value)
    assert codec.encode(Counter("aab")) == {"t": "dict", "v": [["a", 2], ["b", 1]]}


def test_source_of_hostile_data():
    values = [
        1,
        -2.5,
        None,
        "a'\"\n",
        [1, (2, {3: {4}})],
        frozenset({1}),
        deque([1]),
        range(1, 9, 2),
        b"a'\0",
    ]
    for value in (*values, 1j, Fraction(1, 3), Decimal("1E+9"), {1: 2}.keys(), {1: 2}.items(), -(9**9999)):
        assert eval(codec.to_source(codec.encode(value))) == value
    assert math.isnan(eval(codec.to_source(math.nan)))
    deep = []
    for _ in range(100):
        deep = [deep]
    assert list(eval(codec.to_source(codec.encode(iter("ab"))))) == ["a", "b"]
    assert list(eval(codec.to_source(codec.encode({1: 2}.values())))) == [2]
    for data in ({"t": "int", "v": "1)"}, {"t": "bytes", "v": "0'"}, {"t": "Decimal", "v": []}):
        with pytest.raises(ValueError):
            codec.to_source(data)
    for data in ({"t": "os.system", "v": []}, {"t": "tuple", "v": "x"}, {}, {"t": [], "v": []}, deep):
        with pytest.raises(ValueError):
            codec.to_source(data)


@pytest.mark.parametrize(
    "returned",
    [
        "(n for n in nums)",
        "filter(None, nums)",
        "map(int, nums)",
        "iter(nums)",
        "reversed(nums)",
        "deque(nums)",
        "dict.fromkeys(nums).keys()",
        "{n: n for n in nums}.values()",
        "__import__('itertools').chain(nums)",
        "range(2, 5, 2)",
    ],
)
def test_what_a_wrapper_of_the_assert_takes_is_carried(grader, returned):
    problem = make_problem(
        "assert sorted(Solution().double([4, 2])) == [2, 4]",
        "assert set(Solution().double(nums=[2, 4])) == {4, 2}",
        "assert sum(1 for _ in Solution().double([4, 2])) == 2",
    )
    code = "class Solution:\n    def double(self, nums):\n        return "
    assert grader.grade(problem, fenced(code + returned)).correct
    assert not grader.grade(problem, fenced(code + "iter([2, 5])")).correct


def test_hostile_numbers_and_members_equal_nothing():
    deep = {"t": "Fraction", "v": [1, 1]}
    for _ in range(400):
        deep = {"t": "Fraction", "v": [deep, 1]}
    expected = [
        1,
        0.5,
        float("inf"),
        codec.encode(1j),
        codec.encode(9**9999),
        codec.encode({1, 2}),
        codec.encode({1: 2}),
    ]
    tags = ("int", "complex", "Fraction", "Decimal", "set", "keys", "items", "dict", "bytes", "iterator")
    values = (None, "", "x", [], [1], [1, 0], [0, 0], {}, ["1", "1"], [[1, 2], 3], deep, [deep, deep])
    for one in expected:
        assert codec.same(one, one)
        for value in values:
            assert not any(codec.same(one, {"t": tag, "v": value}) for tag in tags)


def test_a_long_number_in_an_assert(grader):
    digits = "1" + "0" * 5000
    for shape in (
        "Solution().double(5000) == {}",
        "{} == Solution().double(x=5000)",
        "Solution().double(5000) in [{}]",
    ):
        problem = make_problem("assert " + shape.format(digits))
        assert grader.grade(problem, method("return 10 ** x")).correct
        assert not grader.grade(problem, method("return 10 ** x + 1")).correct


def test_the_child_is_not_told_the_answer():
    (check,) = parse_checks(("assert Solution().f(x = 1) == [7]",), "Solution().f")
    assert (check.call, check.expected_data, check.judge) == ("Solution().f(x=1)", [7], None)
    (check,) = parse_checks(("assert 7 == Solution().f(1)",), "Solution().f")
    assert (check.call, check.expected, check.judge) == ("Solution().f(1)", None, "bool(7 == __value__)")
    for bad in ("assert True", "assert Solution().f() == Solution().f()", "x = 1", "assert (", "assert 1; x"):
        with pytest.raises(ValueError, match="assert 0"):
            parse_checks((bad,), "Solution().f")
