"""Faults of the sandbox, which are never failures of the program."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from reward import Grader, Sandbox, SandboxFault, SandboxLimits
from reward.sandbox import Job, protocol
from reward.sandbox.isolation import Isolation
from reward.sandbox.layers import Place
from reward.sandbox.server import Server
from tests.reward.helpers import descendants, make_problem, method

ROOT = Path(__file__).resolve().parents[2]
SLOW = Job(
    "", "import time\ntime.sleep(0.7)\nclass Solution:\n    def f(self): return 1", ("Solution().f()",)
)
QUICK = Job("", "class Solution:\n    def f(self): return 1", ("Solution().f()",))
ANSWER = ({"s": "compiled"}, {"i": 0, "v": 1})


def signal_soon(sandbox: Sandbox, number: int) -> threading.Timer:
    def send() -> None:
        if sandbox.server_pid is not None:
            os.kill(sandbox.server_pid, number)

    timer = threading.Timer(0.3, send)
    timer.start()
    return timer


def test_a_killed_server_is_replaced_and_the_job_retried():
    with Sandbox() as sandbox:
        assert sandbox.run(SLOW).lines == ANSWER
        first = sandbox.server_pid
        timer = signal_soon(sandbox, signal.SIGKILL)
        assert sandbox.run(SLOW).lines == ANSWER
        timer.join()
        assert sandbox.faults == 1 and sandbox.server_pid != first
        os.kill(sandbox.server_pid, signal.SIGKILL)  # between two jobs
        assert sandbox.run(QUICK).lines == ANSWER


def test_a_stopped_server_is_replaced(monkeypatch):
    monkeypatch.setattr("reward.sandbox.client._GRACE_S", 1.0)
    with Sandbox(SandboxLimits(wall_s=2)) as sandbox:
        sandbox.run(QUICK)
        timer = signal_soon(sandbox, signal.SIGSTOP)
        assert sandbox.run(SLOW).lines == ANSWER
        timer.join()
        assert sandbox.faults == 1


def test_grading_survives_a_killed_server():
    problem, pairs = make_problem(), []
    for n in range(40):
        pairs.append(
            (problem, method("import time; time.sleep(0.01); return 2 * x" if n % 2 else "return x"))
        )
    with Grader("none") as grader:
        grader.grade(*pairs[0])
        timer = signal_soon(grader._sandboxes[0], signal.SIGKILL)
        verdicts = grader.grade_many(pairs)
        timer.join()
        assert [v.correct for v in verdicts] == [bool(n % 2) for n in range(40)]
        assert grader.faults == 1


def test_a_fault_that_lasts_is_raised(monkeypatch):
    monkeypatch.setattr("reward.sandbox.client._BOOT", "raise SystemExit('cannot start')")
    with Sandbox(retries=1) as sandbox, pytest.raises(SandboxFault, match=r"2 times(.|\n)*cannot start"):
        sandbox.run(QUICK)
    with Grader("none") as grader, pytest.raises(SandboxFault):
        grader.grade_many([(make_problem(), method("return 2 * x"))] * 3, workers=2)


def test_close_leaves_nothing_and_is_final():
    sandbox = Sandbox()
    sandbox.run(QUICK)
    server, scratch = sandbox.server_pid, Path(sandbox._scratch)
    assert server in descendants(os.getpid()) and scratch.is_dir()
    sandbox.close()
    sandbox.close()
    assert server not in descendants(os.getpid()) and not scratch.exists()
    with pytest.raises(ValueError, match="closed"):
        sandbox.run(QUICK)


def test_the_server_goes_when_its_client_dies():
    reader, writer = os.pipe()
    client = os.fork()
    if client == 0:
        sandbox = Sandbox()
        sandbox.run(QUICK)
        os.write(writer, f"{sandbox.server_pid} {sandbox._scratch}".encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(client, 0)
    server, scratch = os.read(reader, 1000).decode().split()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{server}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{server}").exists() and not Path(scratch).exists()


def test_stopping_early_and_reusing_the_server():
    endless = Job(
        "", "class Solution:\n    def f(self, n): return n", tuple(f"Solution().f({n})" for n in range(5000))
    )
    with Sandbox() as sandbox:
        for _ in range(20):
            result = sandbox.run(endless, keep_going=lambda line: line["i"] < 1 if "i" in line else True)
            assert result.status in ("stopped", "exited")
            assert sandbox.run(QUICK).lines == ANSWER
        with pytest.raises(ZeroDivisionError):
            sandbox.run(QUICK, keep_going=lambda line: 1 // 0)
        assert [r.status for r in sandbox.run_many([QUICK, QUICK])] == ["exited", "exited"]
        assert sandbox.faults == 0


def test_statuses():
    with Sandbox(SandboxLimits(cpu_s=1, wall_s=3, output_kib=16)) as sandbox:
        assert sandbox.run(Job("", "import time\ntime.sleep(9)")).status == "timeout"
        assert sandbox.run(Job("", "import os\nos.write(3, b'x' * 50000)")).status == "output"
        busy = sandbox.run(Job("", "while True: pass"))
        assert busy.cpu_ms > 100 and busy.wall_ms < 5000


def test_a_flood_does_not_swallow_the_line_before_it(tmp_path: Path):
    """A server that gets no time reads both at once."""
    place = Place(str(tmp_path), SandboxLimits(output_kib=1), jobs=str(tmp_path))
    (from_client, client), (to_client, server), (result, child) = os.pipe(), os.pipe(), os.pipe()
    os.write(child, json.dumps(protocol.READY).encode() + b"\n" + b"x" * 5000)
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        relay = Server(from_client, server, place, Isolation(place))._relay
        assert relay(result, sleeper.pid, time.monotonic() + 30, str(tmp_path)) == "output"
        sleeper.kill()
    kind, body = protocol.read_frame(to_client, time.monotonic() + 1)
    assert kind == protocol.LINES and json.loads(body.split(b"\n")[0]) == protocol.READY
    for fd in (from_client, client, to_client, server, result, child):
        os.close(fd)


SMALL_STACK = """
import json, resource
from reward import Sandbox
from reward.sandbox import Job
resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, 8 << 20))
code = "import functools\\nclass Solution:\\n    @functools.cache\\n    def f(self, n): return n and 1 + self.f(n - 1)"
with Sandbox() as sandbox:
    print(json.dumps(sandbox.run(Job("", code, ("Solution().f(1000)", "Solution().f(-1)"))).lines))
"""


def test_the_recursion_limit_is_no_more_than_the_stack_has_room_for():
    """Where the stack may not grow, endless recursion is an exception all the same, and no crash."""
    done = subprocess.run([sys.executable, "-c", SMALL_STACK], capture_output=True, text=True, cwd=ROOT)
    _, first, second = json.loads(done.stdout)
    assert first == {"i": 0, "v": 1000} and second["e"].startswith("RecursionError")


def test_a_stack_without_room_below_it_is_made_anew():
    """The kernel places it by chance; what lies too close is only there in one start of many."""
    code = (
        "import os, resource, sys\nsys.path.insert(0, sys.argv[1])\nfrom reward.sandbox import stack\n"
        "if resource.getrlimit(3)[0] == 8 << 20: stack._free_below = lambda: 0\n"
        "print(stack.make_room(9000), resource.getrlimit(3)[0], stack._free_below() > 9000 * stack.PER_LEVEL)"
    )
    command = ["/bin/sh", "-c", 'ulimit -S -s 8192; exec "$@"', "sh", sys.executable, "-c", code, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.split() == ["9000", str(9000 * 2560), "True"], done.stderr


@pytest.mark.parametrize("change", [{"cpu_s": 0}, {"wall_s": -1}, {"memory_mib": 1.5}, {"file_mib": True}])
def test_limits_are_checked(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        SandboxLimits(**change)
