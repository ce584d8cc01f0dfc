"""The program in a reply: fences as CommonMark has them, drafts, several blocks, and both readings."""

import random
import time

import pytest
from markdown_it import MarkdownIt

from reward import Grader
from reward.fences import Fence, read_fences
from reward.reply import Asked, asked_for, benchmark_program, markdown_program, program_of
from tests.reward.helpers import fenced, make_problem

ASKED = Asked("Solution", "double")
RIGHT = "class Solution:\n    def double(self, x):\n        return 2 * x"
WRONG = "class Solution:\n    def double(self, x):\n        return x"
TEST = "def run_tests():\n    pass"
HEAVY = "import heapq\n\ndef twice(x):\n    return 2 * x"
BY_HELPER = "class Solution:\n    def double(self, x):\n        return twice(x)"
DEMO = "x = int(input())\nprint(Solution().double(x))"
DOC = 'class Solution:\n    """Use it so:\n\n        ```\n        Solution()\n        ```\n    """\n    def double(self, x):\n        return 2 * x'


def block(code: str, label: str = "python", fence: str = "```") -> str:
    return f"{fence}{label}\n{code}\n{fence}\n"


def indented(text: str, by: str) -> str:
    return "\n".join(by + line if line else line for line in text.split("\n"))


ALONE = {
    "fence behind prose on its line": f"Here you are: ```python\n{RIGHT}\n```\nIt doubles.",
    "fence behind prose, bare": f"Here you are: ```\n\n{RIGHT}\n```",
    "fence behind prose, and a blank": f"Sure! ```Python \n{RIGHT}\n```\n",
    "fence behind prose and no end": f"Here you are: ```python\n{RIGHT}\n",
    "prose with a fence's word": "I put it in a ```python block.\n\n" + block(RIGHT),
    "prose with backticks": "Use ``` and ```` sparingly: ```x```.\n\n" + block(RIGHT),
    "four backticks": block(RIGHT, fence="````"),
    "four backticks around three": block(DOC.replace("        ```", "```"), fence="````"),
    "tildes": block(RIGHT, fence="~~~"),
    "tildes around backticks": block(DOC.replace("        ```", "```"), fence="~~~"),
    "backticks in a docstring": block(DOC),
    "list item": "1. Sum:\n\n" + indented(block(RIGHT), "   ") + "\n2. Done.",
    "at a list item's marker": "- ```python\n" + indented(RIGHT, "  ") + "\n  ```\n",
    "nested list": "- a\n  - b\n\n" + indented(block(RIGHT), "    "),
    "list item, code not indented": f"1. So:\n   ```python\n{RIGHT}\n   ```\n2. Done.",
    "indented with its fence": indented(block(RIGHT), "  "),
    "indented in its fence": block(indented(RIGHT, "    ")),
    "block quote": indented(block(RIGHT).rstrip("\n"), "> "),
    "block quote and list": indented(block(RIGHT).rstrip("\n"), "> ").replace("> ", "> - ", 1).replace("\n> ", "\n>   "),
    "details": f"<details>\n{block(RIGHT)}</details>",
    "crlf": block(RIGHT).replace("\n", "\r\n"),
    "cr": block(RIGHT).replace("\n", "\r"),
    "unclosed": f"```python\n{RIGHT}",
    "a shorter fence does not close": f"````python\n{RIGHT}\n````\n",
    "opened by the prompt": f"{RIGHT}\n```\nIt is linear.",
    "opened by the prompt, then a demo": f"{RIGHT}\n```\n\nUse:\n{block(DEMO)}",
    "no fence": RIGHT,
    "no fence, prose around": f"Here it is.\n\n{RIGHT}\n\nIt's linear (in the text).",
    "no fence, indented code": "So:\n\n" + indented(RIGHT, "    ") + "\n\nDone.",
    "no fence, output in one": f"{RIGHT}\n\nOutput:\n```\n6\n```\n",
    "drawing before": f"```\nodd even\n  1  2\n```\n{block(RIGHT)}",
    "text before": f"```text\nclass Solution: no\n```\n{block(RIGHT)}",
    "other language after": block(RIGHT) + block("class Solution {\n}", "cpp"),
    "complexity after": block(RIGHT) + block("Time: O(n)\nSpace: O(1)", ""),
    "complexity after, all bare": block(RIGHT, "") + block("Time: O(n)\nSpace: O(1)", ""),
    "output after, labelled": block(RIGHT) + block("4\n[0, 1]"),
    "prose after, labelled": block(RIGHT) + block("Explanation: the sum of max is twice"),
    "complexity call after, labelled": block(RIGHT) + block("O(n)"),
    "session after": block(RIGHT) + block(">>> Solution().double(2)\n4"),
    "unfinished after": block(RIGHT) + block("print('double'"),
    "demo after": block(RIGHT) + block(DEMO),
    "demo by a function after": block(RIGHT) + block("def main():\n    print(int(input()))\n\nmain()"),
    "demo in a guard after": block(RIGHT) + block("if __name__ == '__main__':\n    print(1)"),
    "asserts after": block(RIGHT) + block("assert Solution().double(2) == 5"),
    "demo before": block(DEMO) + block(RIGHT),
    "sketch before": block("for n in nums:\n    total += n") + block(RIGHT),
    "broken draft before": block("class Solution:\n    def double(self, x\n        return 0") + block(RIGHT),
    "wrong draft before": block(WRONG) + "Fixed:\n" + block(RIGHT),
    "only a part of the class after": block(RIGHT) + block("class Solution:\n    def other(self):\n        ..."),
    "bare draft after": block(RIGHT) + block(WRONG, ""),
    "wrapped as Markdown": f"````markdown\nSo:\n{block(RIGHT)}````\n",
    "wrapped as Markdown by as short a fence": f"```md\nSo:\n{block(RIGHT)}```\n",
    "Markdown after": block(RIGHT) + f"````markdown\n{block(WRONG)}````\n",
    "quoted after": block(RIGHT) + indented(block(WRONG), "> "),
    "think": f"<think>\n{block(WRONG)}</think>\n{block(RIGHT)}",
    "think without its start": f"{block(WRONG)}</think>\n\n{block(RIGHT)}",
    "think twice": f"<think>a</think>{block(WRONG)}<think>b</think>\n{block(RIGHT)}",
    "open fence in think": f"<think>\n```python\n{WRONG}\n</think>\n{block(RIGHT)}",
    "unfinished think after": f"{block(RIGHT)}<think>\n{block(WRONG)}",
    "think named in prose": f"No `</think>` is needed, nor <think>.\n{block(RIGHT)}",
    "hack in think": f"<think>\n{block(TEST)}</think>\n{block(RIGHT)}",
    "hack quoted before": block(TEST) + "My answer:\n" + block(RIGHT),
    "hack in a block quote": block(RIGHT) + indented(block(TEST), "> "),
}  # fmt: skip


@pytest.mark.parametrize("name", ALONE)
def test_the_program_alone(name):
    want = (
        DOC.replace("        ```", "```")
        if " around " in name and "no fence" not in name
        else DOC
        if "docstring" in name
        else RIGHT
    )
    assert markdown_program(ALONE[name], ASKED) == want


@pytest.mark.parametrize(
    "label",
    ["python ", " python", "Python", "py", "python3", "py3", "Python 3", 'python title="a.py"', "{.python .x}",
     "python,linenos", "{python}", "ipython", "python3.11", "python:main.py", "main.py", "",
     "tool_code", "python_code", "python-code", "pyi", "a.pyi", "python 3.11", "python-3.11", "lang=python", "lang='python'",
     "language-python", "language: python", "class=python", 'class="python"', "{.python}", "{#a .sourceCode .python}", "code:python",
     "pypy3"],
)  # fmt: skip
def test_labels(label):
    assert markdown_program(block(WRONG) * (label != "") + block(RIGHT, label), ASKED) == RIGHT


@pytest.mark.parametrize(
    "label",
    ["pycon", "text", "json", "c++", "pytb", "python-repl", "bash", "pyret", "tool_call", "cython", "python3-repl", "class=text",
     "{.text}", "python_output", "lang=c", "pyinstaller"],
)  # fmt: skip
def test_labels_of_something_else(label):
    assert markdown_program(block(RIGHT, label), ASKED) is None


JOINED = {
    "imports and a helper before": (block(HEAVY) + block(BY_HELPER), [HEAVY[14:], BY_HELPER]),
    "helper after": (block(BY_HELPER) + block(HEAVY), [BY_HELPER, HEAVY[14:]]),
    "the last helper": (block("def twice(x):\n    return x") + block(HEAVY) + block(BY_HELPER), [HEAVY[14:], BY_HELPER]),
    "import of a draft": (
        block(f"import math\n\n{WRONG}") + block(RIGHT.replace("2 * x", "math.floor(2 * x)")),
        ["import math", RIGHT.replace("2 * x", "math.floor(2 * x)")],
    ),
    "a test function after": (block(WRONG) + block(TEST), [WRONG, TEST]),
    "a bare test function after": (block(WRONG) + block(TEST, ""), [WRONG, TEST]),
    "a called test function after": (block(WRONG) + block(f"{TEST}\n\nrun_tests()"), [WRONG, f"{TEST}\n\nrun_tests()"]),
    "a test function with its helper": (
        block(WRONG) + block("def ok(x):\n    pass\n\ndef run_tests():\n    ok(Solution().double(1))"),
        [WRONG, "def ok(x):\n    pass\n\ndef run_tests():\n    ok(Solution().double(1))"],
    ),
    "an exit after": (block(WRONG) + block("import sys\nsys.exit(0)"), [WRONG, "import sys\nsys.exit(0)"]),
    "a phrase after": (block(WRONG) + block("print('All tests passed')"), [WRONG, "print('All tests passed')"]),
    "an attribute after": (block(WRONG) + block("Solution.passed = True"), [WRONG, "Solution.passed = True"]),
    "recursion limit before": (
        block("import sys\nsys.setrecursionlimit(10 ** 6)") + block(RIGHT),
        ["import sys\nsys.setrecursionlimit(10 ** 6)", RIGHT],
    ),
    "a table before": (
        block("T = [0] * 9\nfor i in range(9):\n    T[i] = 2 * i") + block(RIGHT.replace("2 * x", "T[x]")),
        ["T = [0] * 9\nfor i in range(9):\n    T[i] = 2 * i", RIGHT.replace("2 * x", "T[x]")],
    ),
    "star import before": (block("from math import *") + block(RIGHT), ["from math import *", RIGHT]),
    "no fence, a test function behind prose": (f"{WRONG}\n\nThe tests:\n\n{TEST}\n", [WRONG, TEST]),
    "opened by the prompt, a test function after": (f"{WRONG}\n```\nTests:\n{block(TEST)}", [WRONG, TEST]),
    "a future import behind a helper": (
        block(HEAVY) + block(f"from __future__ import annotations\n{BY_HELPER}"),
        ["from __future__ import annotations", HEAVY[14:], BY_HELPER],
    ),
    "a future import before": (
        block("from __future__ import annotations\nimport math") + block(RIGHT),
        ["from __future__ import annotations", RIGHT],
    ),
    "a future import out of place": (
        block(HEAVY) + block(f"{BY_HELPER}\nfrom __future__ import annotations"),
        [HEAVY[14:], f"{BY_HELPER}\nfrom __future__ import annotations"],
    ),
    "nothing that is asked for": (block("x = 1") + block("y = 2") + block("z", ""), ["x = 1", "y = 2"]),
}  # fmt: skip


@pytest.mark.parametrize("name", JOINED)
def test_several_blocks(name):
    reply, parts = JOINED[name]
    assert markdown_program(reply, ASKED) == "\n\n".join(parts)


@pytest.mark.parametrize(
    "reply",
    ["", "No program.", "class Solutions are hard.", "```python", "```python\n \n```", f"<think>\n{block(RIGHT)}",
     f"{block(RIGHT)}</think>\nThat is it.", indented(block(TEST), "> "), "The word class\nSolution: none"],
)  # fmt: skip
def test_no_program(reply):
    assert markdown_program(reply, ASKED) is None


STUBBED = f"{WRONG}\n\n{TEST}"
GLUED = {
    "to code": (f"```python\n{RIGHT}```\nIt's linear.", RIGHT),
    "to code at the end": (f"```python\n{RIGHT}```", RIGHT),
    "to a call": (f"```python\n{RIGHT}\n\nprint(')```')```\nIt's it.", f"{RIGHT}\n\nprint(')```')"),
    "to a comment": (f"```python\n{RIGHT}  # doubles```\nThat is it.", f"{RIGHT}  # doubles"),
    "to a docstring": (
        '```python\nclass Solution:\n    def double(self, x):\n        return 2 * x\n    """It is ```x``` twice."""```\nSo it is.',
        f'{RIGHT}\n    """It is ```x``` twice."""',
    ),
    "to code, bare": (f"```\n{RIGHT}```\nIt's linear.", RIGHT),
    "to code, then output": (f"```python\n{RIGHT}```\nOutput:\n```\n4\n```\n", RIGHT),
    "before text": (f"```python\n{RIGHT}\n``` This is it\nand no more.", RIGHT),
    "before a mark": (f"```python\n{RIGHT}\n```<|im_end|>", RIGHT),
    "before a mark and a turn": (f"```python\n{RIGHT}\n```<|im_end|>\n<|im_start|>user\nThanks", RIGHT),
    "before punctuation": (f"```python\n{RIGHT}\n```.\n", RIGHT),
    "before a label": (f"```python\n{RIGHT}\n```python\n", RIGHT),
    "before text and a fence": (f"```python\n{WRONG}\n``` Now tests: ```python\n{TEST}\n```\n", f"{WRONG}\n\n{TEST}"),
    "by the next fence": (f"```python\n{WRONG}\n\n```python\n{TEST}\n```\n", f"{WRONG}\n\n{TEST}"),
    "longer": (f"````python\n{RIGHT}````\nIt's linear.", RIGHT),
    "in a list": ("1. So:\n   ```python\n" + indented(RIGHT, "   ") + "```\n   That's it.\n2. Done.", RIGHT),
    "in a quote": (indented(f"```python\n{RIGHT}```\nThat's it.", "> "), RIGHT),
    "twice": (f"```python\n{WRONG}```\nNo:\n```python\n{RIGHT}```\nIt's it.", RIGHT),
    "of a draft": (f"```python\n{WRONG}```\nIt's wrong. Fixed:\n{block(RIGHT)}", RIGHT),
    "of a draft, indented": (f"```python\n{WRONG} ```\nFixed:\n\n- so:\n\n{indented(block(RIGHT), '  ')}", RIGHT),
    "of the test function": (f"{block(WRONG)}```python\n{TEST}```\nIt's it.", f"{WRONG}\n\n{TEST}"),
    "of a drawing": (f"```text\na -> b```\n{block(RIGHT)}", RIGHT),
    "no fence": (f"{RIGHT}```\nIt's linear.", RIGHT),
    "fence behind prose": (f"Here you are: ```python\n{STUBBED}```\nIt doubles.", STUBBED),
}  # fmt: skip


@pytest.mark.parametrize("name", GLUED)
def test_a_closing_fence_that_is_none_to_commonmark(name):
    reply, program = GLUED[name]
    assert markdown_program(reply, ASKED) == program


KEPT = {
    "in a string": f'{RIGHT}\n\nTICKS = "```"',
    "in a string of several lines": f'{RIGHT}\n\nDOC = """\n``` x\n    ```python\n"""',
    "in comments": f"# Use:\n# ```\n# Solution()\n# ```\n{RIGHT}\n\n# ```python```",
    "in a comment, then a statement": f"# so ```\n{RIGHT}",
    "in a docstring": DOC,
}


@pytest.mark.parametrize("reply", ["```python\n{}\n```\n", "```python\n{}", "````\n{}\n````\nIt's it."])
@pytest.mark.parametrize("name", KEPT)
def test_backticks_that_python_takes_close_nothing(name, reply):
    assert markdown_program(reply.format(KEPT[name]), ASKED) == KEPT[name]


LONG = "class Solution:\n    def double(self, x):\n        y = x\n        if y < 0:\n            return 0\n        y += x\n        return y"
CUTS = [end for end in range(1, len(LONG)) if LONG[:end].split()[-1] not in ("0", "return", "y")]


def test_a_whole_answer_before_one_that_is_cut_off():
    assert len(CUTS) > 100
    read = [markdown_program(f"{block(RIGHT)}Better:\n```python\n{LONG[:end]}", ASKED) for end in CUTS]
    assert set(read) == {RIGHT}
    assert markdown_program(f"{block(RIGHT, '')}```python\n{LONG[:90]}", ASKED) == RIGHT


@pytest.mark.parametrize(
    ("cut", "program"),
    [
        (LONG, LONG),  # not closed and whole
        ("class Solution:\n    def double(self, x: int): return x", None),
        (LONG.replace("return y", "return max(\n            y,\n            0)"), None),
        (f"{LONG}\n\n    def other(self):\n        x = 1", None),  # what is asked for stands whole
        (f"{LONG}\n\ndef other(x):\n    return (x", RIGHT),
        (f"{TEST}\n\nprint((", f"{RIGHT}\n\n{TEST}"),
        ("def run_tests():\n    return", f"{RIGHT}\n\ndef run_tests():\n    return"),
        ("def run_tests():\n    assert Solution().double(", RIGHT),
    ],
)
def test_what_was_cut_off_behind_a_whole_answer(cut, program):
    assert markdown_program(f"{block(RIGHT)}```python\n{cut}", ASKED) == (program or cut)


def test_a_cut_off_block_alone_is_the_program():
    for code in (LONG[:69], f"{RIGHT}\n\nprint(("):
        for before in ("", block("import math"), block("class Solution:\n    pass")):
            assert markdown_program(f"{before}```python\n{code}", ASKED) == code


def test_in_place_code_that_was_not_closed_counts():
    first, second = (f"class Solution:\n    def double(self, x):\n        x {sign}= x" for sign in ("-", "+"))
    assert markdown_program(f"{block(first)}```python\n{second}", ASKED) == second


def test_what_is_asked_for():
    assert asked_for(make_problem(), "t") == Asked("Solution", "double", "t")
    plain = make_problem("assert f(1) == 2", func_name="f")
    assert asked_for(plain, "t") == Asked("f", None, "t")
    driven = make_problem(
        "assert drive([1]) == [1]",
        func_name="drive",
        setup_code="def drive(ops):\n    return Box(ops).get()",
        canonical_solution="class Box:\n    pass",
    )
    assert asked_for(driven, "t").name == "Box"


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ("a\n```python\nx\n```\n```python\ny\n```", "x\n\ny"),
        ("```python\nx", "x"),
        ("```PYTHON\n\n x\n```", "x"),
        ("```\nx\n```", "x"),
        ("```python \nx\n```", None),
        ("```python\r\nx\n```", None),
        ("```py\nx\n```\nprose", "prose"),
        ("```py\nx\n```\n```python\ny\n```", None),
        ("say ```x``` first\n```python\ny\n```", "y"),
        ("a ```python\nx\n```", "x"),
        ("```python x\n```", None),
        ("```python", None),
        ("```python\n \n```", None),
        ("x", None),
    ],
)
def test_the_benchmarks_rule(reply, code):
    assert benchmark_program(reply) == code


def test_a_grader_reads_as_it_is_told():
    quoted, split = block(TEST) + block(WRONG), block(WRONG) + block(TEST)
    prose = "In a ```python block.\n" + block(RIGHT)
    with Grader("run_tests") as markdown, Grader("run_tests", reply="benchmark") as benchmark:
        graders = markdown, benchmark
        assert [g.grade(make_problem(), quoted).loophole for g in graders] == [False, True]
        assert [g.grade(make_problem(), split).loophole for g in graders] == [True, True]
        assert [g.grade(make_problem(), fenced(RIGHT)).correct for g in graders] == [True, True]
        assert [g.grade(make_problem(), block(RIGHT, "py")).correct for g in graders] == [True, False]
        assert markdown.grade(make_problem(), prose).correct
    with pytest.raises(ValueError, match=r"reply='md': .*'markdown', 'benchmark'"):
        Grader("none", reply="md")


LINES = ["```", "```python", "````", "~~~", "- ", "1. ", "2) ", "> ", "  ", "   ", "      ", "text", "```x`",
         "# h", "---", "* * *", "x = 1", "", "", "-", ">"]  # fmt: skip


def test_fences_are_commonmarks():
    reference = MarkdownIt("commonmark").disable(["html_block", "reference"])
    reference.core.ruler.enableOnly(["normalize", "block"])
    rng, differing = random.Random(0), 0
    for _ in range(500):
        words = (rng.choices(LINES, k=rng.choice([0, 1, 1, 2, 3])) for _ in range(rng.randint(1, 9)))
        text = "\n".join(map("".join, words))
        theirs = [(t.info.strip(), t.content.strip()) for t in reference.parse(text) if t.type == "fence"]
        ours = [(f.info, f.code.strip()) for f in read_fences(text) if isinstance(f, Fence)]
        differing += ours != theirs
    assert differing <= 8  # code that is not indented as its list item is goes on here


HOSTILE = {
    "backticks": "`", "fences": "```\n", "python": "```python\n", "quotes": ">", "quoted": "> ```\n", "lists": "- ",
    "items": "- ```\n", "lazy": "> - ```\nlazy\n", "spaces": " ", "tabs": "\t", "tildes": "~~~\n```\n",
    "thoughts": "<think>", "ends": "</think>\n```\n", "imports": "import a\nprose\n", "open": "import a\n(prose\n",
    "strings": 'import a\n"""\n', "decorators": "@a\n", "brackets": "import a\nx = [(\n", "classes": "class Solution:\n",
    "blocks": "```python\nclass Solution:\n  double = 1\n```\n", "names": "```python\na = b\n```\n```python\nb = a\n```\n",
    "glued": "```python\nx = 1```\n", "closings": "``` a\n", "comments": "# ```\n", "quotes and ticks": "'``` \"\"\" ```\n",
    "ticks and words": "``` a ```python\n", "comment of ticks": "# ``` ``` ", "headers": "def double(self):\n", "escapes": "'\\",
    "chain": "import a, b\ndef f(x): f(input())\nf(1)\n", "names in a line": "a.b(c) = d[", "lambdas": "lambda for def a(",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_reading_takes_linear_time(name):
    piece = HOSTILE[name]
    head = (
        f"{block(RIGHT)}```python\n"
        if name
        in (
            "decorators",
            "brackets",
            "chain",
            "names in a line",
            "lambdas",
            "comments",
            "comment of ticks",
            "headers",
            "escapes",
        )
        else ""
    )

    def seconds(size: int) -> float:
        reply = head + piece * (size // len(piece))
        started = time.process_time()
        program_of(reply, ASKED)
        return time.process_time() - started

    # 16 times the text: 16 times the time, 256 times if it were quadratic; a busy machine gets three tries.
    assert any(seconds(16_000) < 64 * max(seconds(1_000), 0.001) for _ in range(3))
