"""Whatever a response contains, and whatever its process writes: a verdict, not correct, the same each time."""

import dataclasses
import string
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from reward import Grader, SandboxLimits
from reward.reply import Asked, benchmark_program, markdown_program
from tests.reward.helpers import fenced, make_problem, method

LIMITS = SandboxLimits(cpu_s=1, wall_s=10, memory_mib=512)
ANY_TEXT = st.text(st.characters(exclude_categories=()))  # with NUL, surrogates and unassigned characters
PIECES = [
    "```",
    "```python",
    "```python\n",
    "`",
    "\n",
    "\r\n",
    " ",
    "\t",
    "x",
    "(",
    "[",
    "{",
    "'''",
    "\\\n",
    "\0",
]
BODIES = {
    "right": "return 2 * x",
    "wrong": "return x",
    "raises": "raise ValueError",
    "exits": "import os; os._exit(0)",
    "random": "import random; return 2 * x if random.random() < 0.5 else 0",
    "the order of a set": "return 2 * x if next(iter({'a', 'b', 'c', 'd'})) == 'a' else 0",
    "refused": "import socket; socket.socket(); return 2 * x",
}

quick = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader("run_tests", limits=LIMITS) as one:
        assert one.grade(make_problem(), method("return 2 * x")).correct
        yield one
        assert one.faults == 0
        assert one.grade(make_problem(), method("return 2 * x")).correct


@quick
@given(ANY_TEXT)
def test_any_text_has_a_verdict(grader: Grader, text: str):
    for response in (text, fenced(text), f"```python\n{text}"):
        verdict = grader.grade(make_problem(), response)
        assert not verdict.correct and not verdict.loophole and verdict.fault is None


@quick
@given(st.binary(max_size=200), st.sampled_from(["utf-8", "latin-1", "utf-16"]))
def test_any_bytes_have_a_verdict(grader: Grader, data: bytes, encoding: str):
    text = data.decode(encoding, "surrogateescape" if encoding == "utf-8" else "replace")
    assert not grader.grade(make_problem(), fenced(text)).correct


@quick
@given(st.binary(max_size=300) | ANY_TEXT.map(lambda text: text.encode(errors="surrogatepass")))
@example(b'{"i": 0}\n{"i": 0, "v": {"t": "tuple"}}\n{"i": 0, "v": {"v": [[]], "t": "dict"}}\n')
@example(b'{"i": 0, "v": 2}\n' * 3 + b'{"i": [], "v": {}}\nnull\n"i"\n[]\n{"s": "ready"}\n')
def test_any_bytes_on_the_result_pipe(grader: Grader, data: bytes):
    code = f"import os\nos.write(3, {data!r} + b'\\n')\n"
    verdict = grader.grade(
        make_problem(), fenced(code + "class Solution:\n    def double(self, x): return 0")
    )
    assert verdict.can_compile and not verdict.correct


@quick
@given(
    st.sampled_from(["([{", "(", "[", "{", "-", "not ", "lambda: ", "f(", "x if x else "]),
    st.integers(1, 3000),
)
def test_any_depth_has_a_verdict(grader: Grader, opening: str, depth: int):
    assert not grader.grade(make_problem(), fenced(f"x = {opening * depth}1")).correct


@quick
@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=6), st.integers(1, 5))
def test_finding_the_code_takes_linear_time(pieces: list[str], megabytes: int):
    piece = "".join(pieces)
    response = piece * (megabytes * 200_000 // len(piece))
    started_s = time.process_time()
    code = benchmark_program(response)
    assert time.process_time() - started_s < 0.5  # a quadratic search of 200 kB takes minutes
    assert code is None or (code == code.strip() and "```" not in code)
    started_s = time.process_time()
    code = markdown_program(response[:200_000], Asked("Solution", "double"))
    assert time.process_time() - started_s < 3
    assert code is None or (code == code.strip() and code)


@quick
@given(st.text(string.printable), st.text(string.printable))
def test_the_code_is_the_block(before: str, code: str):
    response = f"{before}\n```python\n{code}\n```\n"
    if "```" not in before + code and not before.endswith("`") and not code.startswith("`") and code.strip():
        assert benchmark_program(response) == code.strip()


def rows(grader: Grader) -> list[dict[str, object]]:
    verdicts = [grader.grade(make_problem(), method(body)) for body in BODIES.values()]
    return [dataclasses.asdict(dataclasses.replace(verdict, cpu_ms=0.0)) for verdict in verdicts]


def test_verdicts_repeat(grader: Grader):
    first = rows(grader)
    assert [row["correct"] for row in first[:4]] == [True, False, False, False]
    for _ in range(19):
        assert rows(grader) == first


def test_verdicts_do_not_depend_on_load(grader: Grader):
    first = rows(grader)
    busy = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(2)]
    try:
        slow = (
            "n = 0\n        while n < 10 ** 6: n += 1\n        return 2 * x"  # some 50 ms for each of 5 calls
        )
        assert grader.grade(make_problem(), method(slow)).correct
        for _ in range(5):
            assert rows(grader) == first
    finally:
        for process in busy:
            process.kill()
            process.wait()
