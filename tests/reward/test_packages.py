"""What answers may import beside Python's library: loaded once, when named, with one thread."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reward import Grader, Problem, Sandbox, SandboxLimits
from reward.sandbox import Job, packages
from tests.reward.helpers import fenced, make_problem

# (imports, body of the solution for x): right where 2 * x comes out
RIGHT = {
    "an import that is not used": ("import numpy as np", "return 2 * x"),
    "a sum": ("import numpy as np", "return int(np.arange(2 * x).size)"),
    "a value of numpy's": ("import numpy as np", "return np.array([x, x]).sum()"),
    "linear algebra": ("import numpy as np", "return round(np.linalg.det(np.diag([x, 2.0]) @ np.eye(2)))"),
    "a large product": (
        "import numpy as np",
        "a = np.ones((600, 600)); return int((a @ a)[0, 0]) // 300 * x",
    ),
    "parts": (
        "import numpy as np\nfrom numpy.random import default_rng\nimport numpy.ma, numpy.testing, numpy.lib.recfunctions",
        "np.fft.fft([1, 2]); np.polynomial.Polynomial([1]); default_rng(1).integers(3); np.char.upper(['a']); return 2 * x",
    ),
    "files": ("import numpy as np", "np.save('f.npy', np.eye(x)); return 2 * len(np.load('f.npy'))"),
    "inside a function": ("", "import numpy; return int(numpy.int64(2) * x)"),
    "sortedcontainers": (
        "from sortedcontainers import SortedList, SortedDict, SortedSet, SortedKeyList",
        "s = SortedList([9 * x, x]); s.add(2 * x); return s[s.bisect_left(2 * x)]",
    ),
}


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader("none", limits=SandboxLimits(memory_mib=256)) as one:
        assert one.grade(make_problem(), solution("", "return 2 * x")).correct
        yield one


def solution(imports: str, body: str) -> str:
    return fenced(f"{imports}\nclass Solution:\n    def double(self, x):\n        {body}\n")


@pytest.mark.parametrize("name", RIGHT)
def test_offered_packages_are_there(grader: Grader, name: str) -> None:
    verdict = grader.grade(make_problem(), solution(*RIGHT[name]))
    assert verdict.correct, verdict.reason


@pytest.mark.parametrize(
    ("setup", "returned", "other"),
    [
        ("import numpy as np", "np.int64(7)", "7"),
        ("import numpy as np", "[np.float64(.5), np.int32(2)]", "[.5, 2]"),
        ("import numpy as np", "{np.int64(1): (np.bool_(True), np.str_('a'))}", "{1: (True, 'a')}"),
        ("import numpy as np", "np.array([1, 2]).tolist()", "np.array([1, 2]).tolist()"),
        ("from sortedcontainers import *", "SortedList([2, 1])", "[1, 2]"),
        ("from sortedcontainers import *", "[SortedSet([2, 1]), SortedDict({2: 'b'})]", "[{1, 2}, {2: 'b'}]"),
    ],
)
def test_their_values_are_compared_as_the_assert_would(
    grader: Grader, setup: str, returned: str, other: str
) -> None:
    problem = make_problem(f"assert Solution().double(x = 1) == {other}", setup_code=setup)
    assert grader.grade(problem, solution("", f"return {returned}")).correct
    assert not grader.grade(problem, solution("", f"return [{returned}]")).correct


def test_setup_code_may_import_them(shared_data: Path) -> None:
    rows = (shared_data / "field_cases" / "data_setup_import.jsonl").read_text().splitlines()
    with Grader("none") as one:
        for problem in map(Problem.from_row, map(json.loads, rows)):
            assert one.grade(problem, fenced(problem.canonical_solution or "")).correct


@pytest.mark.parametrize("name", ["pytest", "scipy.optimize", "cv2"])
def test_others_are_not_there_and_named(grader: Grader, name: str) -> None:
    """Installed or not."""
    verdict = grader.grade(make_problem(), solution(f"import {name}", "return 2 * x"))
    assert not verdict.correct and verdict.reason is not None
    top = name.partition(".")[0]
    assert verdict.reason.startswith(
        f"import: ModuleNotFoundError: No module named '{top}' (line 1), the sandbox"
    )
    assert "offers numpy, sortedcontainers, at the top" in verdict.reason


def test_the_list_is_an_option() -> None:
    limits = SandboxLimits(packages=("sortedcontainers", "nowhere_to_be_found", "yaml.constructor"))
    with Grader("none", limits=limits) as one:
        reason = one.grade(make_problem(), solution("import numpy", "return 2 * x")).reason
        assert reason is not None
        assert "offers sortedcontainers, yaml.constructor, not installed here: nowhere_to_be_found" in reason
        assert one.grade(
            make_problem(), solution("import yaml", "return 2 * x if yaml.safe_load('1') else 0")
        ).correct
    with pytest.raises(ValueError, match=r"packages holds 'a-b'"):
        SandboxLimits(packages=("a-b",))


def test_they_are_loaded_once_when_named_and_start_no_thread() -> None:
    names = Job("import sys", "", ("'n' + 'umpy' in sys.modules",))
    draw = Job("import numpy", "", ("numpy.random.randint(10 ** 9)", "numpy.zeros(1480 * 2 ** 17)[0]"))
    with Sandbox(SandboxLimits(memory_mib=1536)) as sandbox:
        assert sandbox.run(names).lines[1] == {"i": 0, "v": False}
        first, second = sandbox.run(draw), sandbox.run(draw)
        assert first.lines[1] == second.lines[1] and "v" in first.lines[1]  # seeded, as Python's own
        assert first.lines[2] == {"i": 1, "v": 0.0}  # its address space is not taken from the job's
        assert sandbox.run(names).lines[1] == {"i": 0, "v": True} and sandbox.faults == 0
        assert len(list(Path(f"/proc/{sandbox.server_pid}/task").iterdir())) == 1


def test_a_package_that_breaks_at_its_import_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "broken_package.py").write_text("import selectors\nraise OSError('broken')")
    code = (
        "import sys; sys.path.append(sys.argv[1])\nfrom reward import Sandbox, SandboxLimits\n"
        "from reward.sandbox import Job\n"
        "job = Job('', 'import broken_package')\n"
        "with Sandbox(SandboxLimits(packages=['broken_package'])) as one:\n"
        "    result = one.run(job)\n"
        "    run = one.run(Job('import asyncio', '', ('asyncio.run(asyncio.sleep(0, 3))',)))\n"
        "    print(one.faults, result.lines[1]['e'], run.lines[1]['v'], sep=';')"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert done.stdout.strip() == "0;ModuleNotFoundError: No module named 'broken_package';3", done.stderr


def test_where_a_package_is() -> None:
    assert (
        packages.folder_of("numpy")
        == packages.folder_of("numpy.linalg")
        == packages.folder_of("sortedcontainers")
    )
    assert [packages.folder_of(name) for name in ("os", "math", "nowhere_to_be_found")] == [None] * 3
