"""Responses that attack the grader: none is correct, none hangs, nothing is left (conftest looks)."""

import time
from pathlib import Path

import pytest

from reward import Grader, SandboxLimits, load_problems
from tests.reward.helpers import fenced, make_problem, method

LIMITS = SandboxLimits(cpu_s=2, wall_s=3, memory_mib=512, file_mib=4, output_kib=256)
GOOD = method("return 2 * x")

FORGED_LINES = "\n".join(f'{{"i": {i}, "v": 0}}' for i in range(5))
IS_OPEN = """
import os
def is_open(fd):
    try: return bool(os.fstat(fd))
    except OSError: return False
"""
ATTACKS = {
    "infinite loop at the top": fenced("while True: pass"),
    "infinite loop in the method": method("while True: pass"),
    "sleep": fenced("import time\ntime.sleep(60)"),
    "memory": method("return bytearray(2 ** 31)"),
    "memory in small pieces": method("return [list(range(10 ** 6)) for _ in range(10 ** 6)]"),
    "sys.exit": fenced("import sys\nsys.exit(0)"),
    "os._exit": fenced("import os\nos._exit(0)"),
    "os._exit in the method": method("import os; os._exit(0)"),
    "exit": method("exit()"),
    "kill oneself": fenced("import os\nos.kill(os.getpid(), 9)"),
    "kill the parent": fenced("import os\nos.kill(os.getppid(), 9)"),
    "stop the parent": fenced("import os\nos.kill(os.getppid(), 19)\nwhile True: pass"),
    "kill the session": fenced("import os\nos.killpg(0, 9)"),
    "equal to everything": fenced(
        "class E:\n    def __eq__(self, other): return True\n    def __hash__(self): return 0\n"
        "class Solution:\n    def double(self, x): return E()"
    ),
    "an int equal to everything": fenced(
        "class E(int):\n    def __eq__(self, other): return True\n    __hash__ = None\n"
        "class Solution:\n    def double(self, x): return E(7)"
    ),
    "a str subclass": fenced(
        "class S(str):\n    pass\nclass Solution:\n    def double(self, x): return S('2')"
    ),
    "a metaclass with a name": fenced(
        "class M(type):\n    __name__ = property(lambda s: 'ListNode')\nclass E(metaclass=M):\n    val = 2\n"
        "    next = None\nclass Solution:\n    def double(self, x): return E()"
    ),
    "print": fenced('print(\'{"i": 0, "v": 2}\')\nclass Solution:\n    def double(self, x): return None'),
    "write on every descriptor": fenced(
        f"import os\nfor fd in range(64):\n    try: os.write(fd, {FORGED_LINES!r}.encode() + b'\\n')\n"
        "    except OSError: pass\nclass Solution:\n    def double(self, x): return 0\n"
    ),
    "claim a broken setup": fenced('import os\nos.write(3, b\'{"s": "setup_failed"}\\n\')\nos._exit(0)'),
    "deep JSON": fenced(
        "import os\nos.write(3, b'[' * 100000 + b'\\n' + b'\\xff\\n{\"i\":' + b'9' * 5000 + b'}\\n')"
    ),
    "flood the result pipe": fenced("import os\nwhile True: os.write(3, b'x' * 65536)"),
    "flood with empty lines": fenced("import os\nwhile True: os.write(3, b'\\n' * 65536)"),
    "close the result pipe and loop": fenced("import os\nos.close(3)\nwhile True: pass"),
    "a huge value": method("return 'x' * 10 ** 7"),
    "patch builtins": fenced(
        "import builtins, json, os\nfor n in ('eval', 'compile', 'exec', 'type', 'len', 'isinstance'):\n"
        "    setattr(builtins, n, lambda *a, **k: 2)\njson.dumps = lambda *a, **k: '{}'\n"
        "class Solution:\n    def double(self, x): return None"
    ),
    "a few children": fenced(
        "import os, time\nfor _ in range(4):\n    if os.fork() == 0:\n        time.sleep(60)\n"
        "class Solution:\n    def double(self, x): return None"
    ),
    "daemons": fenced(
        "import os, time\nfor _ in range(3):\n    if os.fork() == 0:\n        os.setsid()\n"
        "        if os.fork() == 0:\n            os.closerange(0, 64)\n            time.sleep(60)\n"
        "        os._exit(0)\n"
    ),
    "a daemon that keeps the pipe": fenced(
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)\nos._exit(0)"
    ),
    "a large file": fenced("with open('f', 'wb') as f:\n    for _ in range(100): f.write(b'x' * 2 ** 20)"),
    "a deep tree of folders": fenced(
        "import os\nfor _ in range(1500):\n    os.mkdir('d' * 20)\n    os.chdir('d' * 20)\nos.chmod('.', 0)"
    ),
    "many files": fenced("for n in range(2000): open(str(n), 'w').close()"),
    "remove the scratch folder": fenced("import os, shutil\nshutil.rmtree(os.getcwd())\nos.chdir('/')"),
    "all descriptors": fenced("held = [open('/dev/null') for _ in range(1000)]"),
    "deep recursion": method("import sys; sys.setrecursionlimit(10 ** 9); return self.double(x)"),
    "a long program": fenced("x = [" + "1," * 500_000 + "]"),
    "a wide program": fenced("\n".join(f"x{n} = {n}" for n in range(100_000))),
}


@pytest.fixture
def tidy_tmp():
    """Some attacks write /tmp/pwned_*; until the sandbox has a file system layer, they succeed."""
    yield
    for path in Path("/tmp").glob("pwned_*"):
        path.unlink()


@pytest.fixture(scope="module")
def grader():
    with Grader("run_tests", limits=LIMITS) as one:
        assert one.grade(make_problem(), GOOD).correct  # so that its server is there before the tests
        yield one
        assert one.faults == 0


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(grader, name):
    started = time.monotonic()
    verdict = grader.grade(make_problem(), ATTACKS[name])
    assert time.monotonic() - started < LIMITS.wall_s + 8  # 8 s for a busy machine
    assert not verdict.correct and not verdict.loophole
    assert grader.grade(make_problem(), GOOD).correct  # the next rollout is unaffected


def test_the_file_limit_holds(grader):
    write = "n = 0\n        f = open('f', 'wb')\n        try:\n            while n < 99:\n"
    write += "                n += f.write(b'x' * 2 ** 20) >> 20\n                f.flush()\n"
    write += "        except OSError: pass\n        return n"
    problem = make_problem(f"assert Solution().double(1) == {LIMITS.file_mib}")
    assert grader.grade(problem, method(write)).correct


def test_the_child_has_nothing_of_ours(grader, monkeypatch):
    monkeypatch.setenv("CANARY", "1")
    checks = {
        "__import__('os').environ.get('CANARY')": "None",
        "sorted(__import__('os').listdir('.'))": "[]",
        "__import__('sys').stdin.read()": "''",
        "[fd for fd in range(64) if is_open(fd)]": "[0, 1, 2, 3]",
    }
    for expression, expected in checks.items():
        problem = make_problem(f"assert Solution().double(1) == {expected}")
        assert grader.grade(problem, method(f"return {expression}", IS_OPEN)).correct, expression


def test_reference_attacks(shared_data, attacks, tidy_tmp):
    problems = {p.id: p for p in load_problems(shared_data / "leetcode_test_medhard_dev.jsonl.gz")}
    with Grader("run_tests") as grader:
        for attack in attacks:
            started = time.monotonic()
            verdict = grader.grade(problems[attack["problem_id"]], attack["response"])
            wall_s = time.monotonic() - started
            expected = attack["expected"]
            assert not verdict.correct, attack["id"]
            assert verdict.loophole == (expected["credit_run_tests_mode"] == "loophole"), attack["id"]
            if "can_compile" in expected:
                assert verdict.can_compile == expected["can_compile"], attack["id"]
            most_s = expected["max_wall_s_per_check"] + 5  # 5 s for a busy machine
            assert wall_s < most_s, (attack["id"], wall_s)
        assert grader.faults == 0
