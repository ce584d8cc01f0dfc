"""Star imports of a problem's setup code do not hide Python's own names."""

from collections.abc import Iterator

import pytest

from reward import Grader
from tests.reward.helpers import make_problem, method

PRELUDE = """
import random
import functools
import math
from typing import *
from functools import *
from collections import *
from itertools import *
from heapq import *
from bisect import *
from string import *
from operator import *
from math import *
inf = float('inf')
"""
# setup, body of the solution for x, whether 2 * x comes out
SETUPS = {
    "pow of math": ("from math import *", "return pow(2, 5, 30) * x", True),
    "pow and abs of operator": ("from operator import *", "return pow(2, 5, 30) * abs(x)", True),
    "the benchmark's prelude": (PRELUDE, "return pow(2, 5, 30) * x + floor(.5) + countOf([], inf)", True),
    "open of os": ("from os import *", "open('f', 'w').write('x'); return 2 * x", True),
    "compile of re": ("from re import *", "return eval(compile('2', '', 'eval')) * x if match('a', 'a') else 0", True),
    "in a condition": ("try:\n    from math import *\nexcept ImportError:\n    pass", "return pow(2, 5, 30) * x", True),
    "a package of modules": ("from xml.etree.ElementTree import *", "return 2 * x if Element('a') is not None else 0", True),
    "used by the setup": ("from math import *\ntwo = pow(2, 5, 30)", "return two * x", True),
    "a def before it": ("def pow(a, b): return 2\nfrom math import *", "return pow(7, 7) * x", True),
    "a def after it": ("from math import *\ndef pow(a, b): return 2", "return pow(7, 7) * x", True),
    "imported by name": ("from operator import pow", "return int(pow(2, 1)) * x", True),
    "imported by name, two arguments": ("from math import pow, floor", "return pow(2, 5, 30) * x", False),
    "imported under the name": ("from math import *\nfrom math import gcd as pow", "return pow(4, 6) * x", True),
    "assigned": ("from math import *\nsum = 2", "return sum * x", True),
}  # fmt: skip


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader("none") as one:
        assert one.grade(make_problem(), method("return 2 * x")).correct
        yield one


@pytest.mark.parametrize("name", SETUPS)
def test_builtins_stay_pythons(grader: Grader, name: str) -> None:
    setup, body, correct = SETUPS[name]
    verdict = grader.grade(make_problem(setup_code=setup), method(body))
    assert verdict.correct is correct, verdict.reason


def test_the_judge_and_the_reference_see_the_same(grader: Grader) -> None:
    asserts = (
        "assert pow(Solution().double(x = 1), 5, 30) == 2",
        "assert Solution().double(x = pow(2, 5, 30)) == 4",
    )
    solution = "class Solution:\n    def double(self, x):\n        return pow(2, 5, 30) * x\n"
    problem = make_problem(*asserts, setup_code=PRELUDE, canonical_solution=solution)
    own = "def run_tests():\n    assert Solution().double(1) == 2"
    with Grader("run_tests", labels=True) as labelled:
        verdict = labelled.grade(problem, method("return 2 * x", own))
    assert verdict.correct and verdict.response_test_func_gt_pass


@pytest.mark.parametrize(
    "setup", ["from nowhere import *", "def f():\n    from math import *", "from . import *"]
)
def test_what_fails_in_python_fails(grader: Grader, setup: str) -> None:
    with pytest.raises(
        ValueError, match=r"setup_code of problem 1 raises.*(nowhere|SyntaxError|ImportError)"
    ):
        grader.grade(make_problem(setup_code=setup), method("return 2 * x"))
