"""The attacks of ``attacks/*.txt``, a problem whose answer cannot be guessed, and what an attack did.

An attack file holds one family: ``### name | intent``, then the response's code. In it, @ANSWERS@ is a
file with the answer, @OUTSIDE@ a folder that must stay as it is, @PARENT@ the grader's process id, @ROOT@
this repository, @PACKAGES@ the folder of installed packages.
"""

import contextlib
import hashlib
import heapq
import os
import secrets
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reward import Grader, Problem, SandboxLimits
from tests.reward.helpers import descendants, fenced, make_problem, method

ROOT = Path(__file__).resolve().parents[2]
LIMITS = SandboxLimits(cpu_s=1, wall_s=1.5, memory_mib=512, file_mib=4, output_kib=256, scratch_mib=16)


@dataclass(frozen=True)
class Attack:
    family: str
    name: str
    intent: str
    code: str


def load_attacks() -> list[Attack]:
    """Every attack of the folder, in order."""
    found = []
    for path in sorted((Path(__file__).parent / "attacks").glob("*.txt")):
        for section in path.read_text().removeprefix("### ").split("\n### "):
            title, _, code = section.partition("\n")
            name, _, intent = title.partition("|")
            found.append(Attack(path.stem, name.strip(), intent.strip(), code))
    return found


@dataclass(frozen=True)
class Outcome:
    """correct, loophole: what was credited. wall_s: of the grading. faults: that the sandbox reported.
    harm: what is not as it was before, or is left over."""

    correct: bool
    loophole: bool
    wall_s: float
    faults: int
    harm: tuple[str, ...]


class Arena:
    """A grader, a problem with a secret answer that its server has already handled, and things to harm."""

    def __init__(self, grader: Grader, folder: Path) -> None:
        self.grader = grader
        self.answer = f"SECRET-{secrets.token_hex(8)}"
        self.problem: Problem = make_problem(
            f"assert Solution().double(x = 1) == {self.answer!r}",
            f"assert Solution().double(x = 2) in ({self.answer!r},)",  # judged in the sandbox
            f"assert Solution().double(x = 3) == {self.answer!r}",
        )
        self.honest = method(f"return {self.answer!r}")
        self._answer_file, self._outside = folder / "answers.jsonl", folder / "outside"
        self._answer_file.write_text(self.answer)
        self._outside.mkdir()
        (self._outside / "kept").write_text("kept")
        self.check_honest()
        self._before = self._state()

    def run(self, code: str) -> Outcome:
        """Grade an attack, given as code, and look at what it did."""
        return self.grade(fenced(self._aimed(code)))

    def grade(self, response: str) -> Outcome:
        """Grade an attack, given as a whole response."""
        faults, started_s = self.grader.faults, time.monotonic()
        verdict = self.grader.grade(self.problem, response)
        wall_s = time.monotonic() - started_s
        state = self._state()
        harm = [
            f"{name}: {now}, was {self._before[name]}"
            for name, now in state.items()
            if now != self._before[name]
        ]
        return Outcome(verdict.correct, verdict.loophole, wall_s, self.grader.faults - faults, tuple(harm))

    def check_honest(self) -> None:
        """The next rollout is graded right. Raises AssertionError."""
        assert self.grader.grade(self.problem, self.honest).correct

    def _aimed(self, code: str) -> str:
        for name, value in (
            ("ANSWERS", self._answer_file),
            ("OUTSIDE", self._outside),
            ("PARENT", os.getpid()),
            ("ROOT", ROOT),
            ("PACKAGES", sysconfig.get_path("purelib")),
        ):
            code = code.replace(f"@{name}@", str(value))
        return code

    def _state(self) -> dict[str, object]:
        left = [
            path
            for folder in ("/tmp", "/dev/shm", "/var/tmp", "/", ROOT)
            for path in Path(folder).glob("pwned_*")
        ]
        library = [Path(module.__file__ or "").read_bytes() for module in (heapq, os)]
        return {
            "server": self.grader._sandboxes[0].server_pid,
            "processes": sorted(descendants(os.getpid())),
            "descriptors": len(list(Path("/proc/self/fd").iterdir())),
            "files left": left,
            "a folder outside": sorted(path.name for path in self._outside.iterdir()),
            "the answer": self._answer_file.read_text(),
            "Python's library": hashlib.sha256(b"".join(library)).hexdigest(),
            "limits": [Path("/proc/self/limits").read_text(), os.sched_getaffinity(0), os.nice(0)],
        }


@contextlib.contextmanager
def arena() -> Iterator[Arena]:
    """An arena in a folder that every user of the machine may enter."""
    with (
        tempfile.TemporaryDirectory(dir="/tmp", prefix="arena-") as folder,
        Grader("run_tests", limits=LIMITS) as grader,
    ):
        Path(folder).chmod(0o755)
        yield Arena(grader, Path(folder))
