"""What statements say of their answers, and what is marked on problems."""

import dataclasses

import pytest

from reward.problems.marks import mark, mark_lines, takes_one_answer
from reward.problems.statements import read_statement
from tests.reward.helpers import make_problem

STATEMENTS = [
    ('Given an integer array nums, return all the triplets [nums[i], nums[j], nums[k]]. Notice that the solution set must not contain duplicate triplets.\n\nExample 1:\nInput: nums = [-1,0]\nOutput: [[-1,-1,2],[-1,0,1]]\nNotice that the order of the output and the order of the triplets does not matter.', 'all', None, None, False),
    ('Given a collection of distinct integers, return all possible permutations. You can return the answer in any order.', 'outer', None, None, False),
    ('return all possible subsets (the power set). The solution set must not contain duplicate subsets. Return the solution in **any order**.', 'all', None, None, False),
    ('Return the indices of the two numbers. You may assume that each input would have exactly one solution. You can return the answer in any order.', 'outer', None, None, False),
    ('Note that the integers in the lists may be returned in any order.', 'inner', None, None, False),
    ('You may perform the operations in any order. Return the maximum score.', None, None, None, False),
    ('Return the maximum number of points you can get by performing the operations in any order.', None, None, None, False),
    ('Answers within 10-5 of the actual value will be accepted.', None, 1e-05, None, False),
    ('Answers within 10^-5 of the actual answer will be accepted.', None, 1e-05, None, False),
    ('Answers within <code>10<sup>-5</sup></code> of the actual answer will be accepted.', None, 1e-05, None, False),
    ('Your answer is considered correct if its absolute or relative error does not exceed 1e-6.', None, 1e-06, 1e-06, False),
    ('The answer is accepted with an error of at most 0.00001.', None, 1e-05, None, False),
    ('If there are multiple answers, return any of them.', None, None, None, True),
    ('Return any array that satisfies this condition.', None, None, None, True),
    ('If there are multiple valid strings, return any of them.', None, None, None, True),
    ('You may return any valid answer.', None, None, None, True),
    ('Return any possible rearrangement of s or return "" if not possible.', None, None, None, True),
    ('A peak element is greater than its neighbors. If the array contains multiple peaks, return the index to any of the peaks.', None, None, None, True),
    ('There may be multiple ways to sort; any valid answer is accepted.', None, None, None, True),
    ('Return all critical connections in the network in any order.\n\nExample 1:\nInput: n = 4\nOutput: [[1,3]]\nExplanation: [[3,1]] is also accepted.', 'all', None, None, False),
    ('return an array of their intersection. Each element in the result must be unique and you may return the result in any order.\nOutput: [9,4]\nExplanation: [4,9] is also accepted.', 'outer', None, None, False),
    ('Return the words sorted by frequency. Words with the same frequency may be returned in any order.', None, None, None, True),
    ('The accounts themselves can be returned in any order. After merging return the accounts: first element is the name and the rest are emails in sorted order.', 'outer', None, None, False),
    ('Notice that you can return the vertices in any order.', 'outer', None, None, False),
    ('The order of output does not matter.', 'outer', None, None, False),
    ('You may return the combinations in any order.', 'all', None, None, False),
    ('group the anagrams together. You can return the answer in any order.', 'all', None, None, False),
    ('The strings in the array arrive in any order. Return their count.', None, None, None, False),
    ('The nodes of the graph are visited in any order. Return the sum.', None, None, None, False),
    ('Return the sorted list.', None, None, None, False),
    ('Return true if the letters of s can be rearranged in any order to make t.', None, None, None, False),
    ('Return a list of all possible strings we could create. Return the output in any order.', 'outer', None, None, False),
    ('Return the answer in arbitrary order.', 'outer', None, None, False),
    ('The elements of the result may appear in any order.', 'outer', None, None, False),
    ('Any order of the answer is fine; any order is accepted.', 'outer', None, None, False),
    ('Return the k closest points to the origin (0, 0). You may return the answer in any order. The answer is guaranteed to be unique (except for the order that it is in).', 'outer', None, None, False),
    ('Return a list of groups such that each person is in a group. If there are multiple answers, return any of them. It is guaranteed that there will be at least one valid solution.', None, None, None, True),
    ('There may be several correct orderings. Return the ordering of courses. If there are many valid answers, return any of them.', None, None, None, True),
    ('The index is 1-based and the constraint is 10-5 <= x.', None, None, None, False),
    ("Return the list of elements, order doesn't matter.", 'outer', None, None, False),
    ('An anagram uses letters in any order. Return all anagrams sorted.', None, None, None, False),
    ("Return the kth smallest. It doesn't return any other value.", None, None, None, False),
    ('You can eat the apples in any order. Return the answer modulo 10^9 + 7.', None, None, None, False),
    ('Two arrays are equal if the order of the elements does not matter. Return whether they are.', None, None, None, False),
    ('Return the number of combinations; the order of the coins does not matter.', None, None, None, False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "order", "tolerance", "relative", "any_answer"), STATEMENTS, ids=lambda value: str(value)[:40]
)
def test_what_statements_say(text, order, tolerance, relative, any_answer):
    found = read_statement(text)
    assert (found.any_order, found.tolerance, found.relative_tolerance) == (order, tolerance, relative)
    assert (found.any_answer is not None) == any_answer, found.any_answer


def stated(question, *asserts, **changes):
    prompt = [{"role": "user", "content": "Write double, and should pass all tests."}]
    return make_problem(*asserts, question=question, prompt=prompt, **changes)


ANY_ORDER, NEAR = (
    "You may return the answer in any order.",
    "Answers within 10^-5 of the actual answer are accepted.",
)
LIST = "assert Solution().double(x = 1) == [1, 2]"
NESTED = "assert Solution().double(x = 1) == [[1, 2], [3]]"
FLOAT = "assert Solution().double(x = 1) == 0.5"


@pytest.mark.parametrize(
    ("problem", "order", "tolerance"),
    [
        (stated(ANY_ORDER, LIST), "outer", None),
        (stated(ANY_ORDER, "assert Solution().double(x = 1) == list(range(5))"), "outer", None),
        (stated(ANY_ORDER, FLOAT), None, None),
        (stated("Return all subsets. " + ANY_ORDER, NESTED), "all", None),
        (stated("Return all subsets. " + ANY_ORDER, LIST), "outer", None),
        (stated(ANY_ORDER, LIST, any_order=False), False, None),
        (stated(ANY_ORDER, NESTED, any_order="inner"), "inner", None),
        (stated(NEAR, FLOAT), None, 1e-5),
        (stated(NEAR, LIST), None, None),
        (stated(NEAR, FLOAT, tolerance=0), None, 0),
        (stated("Return the list.", LIST), None, None),
    ],
)
def test_marks_follow_the_statement_where_the_answer_has_an_order_or_a_float(problem, order, tolerance):
    marked = mark(problem)
    assert (marked.any_order, marked.tolerance) == (order, tolerance)
    assert dataclasses.replace(marked, any_order=problem.any_order, tolerance=problem.tolerance) == problem


def test_problems_of_which_several_answers_are_right_are_named():
    several = stated("If there are multiple answers, return any of them.", LIST)
    assert "return any of them" in str(takes_one_answer(several)) and mark(several) == several
    judged = stated(
        "If there are multiple answers, return any of them.", "assert len(Solution().double(x = 1)) == 2"
    )
    assert takes_one_answer(judged) is None
    unmarked = dataclasses.replace(stated(ANY_ORDER, LIST), id="u")
    lines = mark_lines([several, judged, unmarked, dataclasses.replace(mark(unmarked), id="m")])
    assert lines[0] == "1 problem compared in any order (outer): m"
    assert "compared strictly, though" in lines[1] and lines[1].endswith(": u")
    assert "the asserts take one answer only: 1" in lines[2] and len(lines) == 3
    assert mark_lines([make_problem()]) == []
