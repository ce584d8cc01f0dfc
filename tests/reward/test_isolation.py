"""Each layer of isolation refuses what it is for, honest programs pass, and a missing layer is noticed."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reward import Grader, Sandbox, SandboxFault, SandboxLimits
from reward.sandbox import Job, LayerReport, WeakSandbox, missing_from_minimum
from reward.sandbox.layers import MINIMUM, Layer, Place, kernel, layers_before_fork, layers_of_server
from reward.sandbox.layers.namespaces import Namespace, PidNamespace
from tests.reward.helpers import make_problem, method

ROOT = Path(__file__).resolve().parents[2]
LIMITS = SandboxLimits(cpu_s=2, wall_s=4, memory_mib=256, file_mib=2, scratch_mib=8)
PRELUDE = """
import ctypes, mmap, os, resource, socket, threading
libc = ctypes.CDLL(None, use_errno=True)
def refused(action, *arguments):
    try:
        return action(*arguments) == -1
    except (OSError, MemoryError, RuntimeError):
        return True
def fill():
    for n in range(9):
        with open(str(n), 'wb') as file: file.write(b'x' * (2 ** 21 - 1))
class Solution:
    def tried(self): return {expression}
"""
# Each is true in a job where the layer works, and false without it (if no other layer does the same).
REFUSED = {
    "limits": "refused(mmap.mmap, -1, 2 ** 29) and refused(os.truncate, os.open('f', 66), 2 ** 22)",
    "no_new_privs": "libc.prctl(39, 0, 0, 0, 0) in (1, -1)",
    "leash": "os.getpgid(0) == os.getpid() and refused(os.setsid) and refused(libc.prctl, 1, 0)",
    "seccomp": "all([refused(socket.socket), refused(socket.socketpair, 1, 2), refused(socket.socket, 1), refused(os.fork), "
    "refused(threading.Thread(target=print).start), refused(os.kill, os.getppid(), 0), refused(os.kill, -1, 0), "
    "refused(os.killpg, 0, 0), refused(os.execv, '/bin/true', ['true']), refused(libc.ptrace, 16, 1, 0, 0), "
    "refused(libc.unshare, 0), refused(libc.shmget, 0, 4096, 0o1666), refused(os.memfd_create, 'm'), "
    "refused(os.sched_setaffinity, 0, {0}), refused(os.setpriority, 0, 0, 0), refused(libc.personality, 0)])",
    "private_root": "not any(map(os.path.exists, ('/proc', '/tmp', '/home', '/sys', '/etc/passwd'))) "
    "and refused(os.mkdir, '/x') and refused(fill)",
    "landlock": "refused(os.listdir, '/') and refused(os.open, os.__file__, os.O_RDWR)",
    "user": "os.getresuid() == os.getresgid() == (os.getuid(),) * 3 and os.getuid() > 0 and os.getgroups() == [] "
    "and refused(os.setuid, 0)",
    "capabilities": "refused(os.chroot, '.') and refused(os.chown, '.', 1, 1) and refused(os.nice, -1)",
    "user_namespace": "refused(libc.setns, 0, 0)",
    "pid_namespace": "os.getppid() == 1",
    "net_namespace": "refused(socket.if_nameindex)",
    "ipc_namespace": "refused(libc.msgget, 0, 0o1666)",
    "uts_namespace": "refused(socket.sethostname, 'x')",
}
HONEST = {
    "collections": "import collections; return len(collections.Counter('aab')) + x - 2 + x",
    "recursion": "f = lambda n: 0 if n == 0 else 2 + f(n - 1); return f(x)",
    "deep recursion": "import sys; sys.setrecursionlimit(9000); f = lambda n: n and f(n - 1); return f(8000) + 2 * x",
    "random": "import random; random.seed(1); return random.randint(2, 2) * x",
    "datetime": "from datetime import datetime, timedelta as t; n = datetime.now(); return (n + t(2 * x) - n).days",
    "time zones": "import zoneinfo; return 2 * x if zoneinfo.ZoneInfo('UTC') else 0",
    "big integers": "return (10 ** 400 * 2 * x) // 10 ** 400",
    "decimals and fractions": "import decimal, fractions; return int(decimal.Decimal(x) * fractions.Fraction(2).numerator)",
    "regular expressions": "import re; return len(re.findall('a', 'ab' * 2 * x))",
    "heaps and bisection": "import heapq, bisect; return bisect.bisect(heapq.nsmallest(99, range(2 * x)), 99)",
    "modules not loaded before": "import sqlite3, statistics, difflib, array; return int(statistics.mean([2 * x]))",
    "numbers from the system": "import secrets, uuid; return 2 * x if secrets.token_bytes(4) and uuid.uuid4() else 0",
    "a scratch file": "f = open('f', 'w+'); f.write('a' * 2 * x); f.seek(0); return len(f.read())",
    "a temporary file": "import tempfile; f = tempfile.TemporaryFile(); f.write(b'a'); return 2 * x",
    "a discarded stdout": "import sys, os; sys.stdout = open(os.devnull, 'w'); print(x); return 2 * x",
    "own limits": "import resource as r; r.setrlimit(r.RLIMIT_STACK, r.getrlimit(r.RLIMIT_STACK)); return 2 * x",
    "a signal to oneself": "import os, signal; signal.signal(10, print); signal.raise_signal(10); return 2 * x",
    "a time limit of one's own": "import signal; signal.alarm(100); return 2 * x",
    "a cache": "import functools; f = functools.cache(lambda n: 2 * n); return f(x)",
    "asyncio": "import asyncio; return asyncio.run(asyncio.sleep(.001, 2 * x))",
    "asyncio, several at once": "import asyncio; g = lambda: asyncio.gather(*[asyncio.sleep(.001, x) for _ in 'ab'])\n"
    "        async def run(): return sum(await asyncio.wait_for(g(), 1))\n        return asyncio.run(run())",
    "asyncio, woken": "import asyncio\n        async def run():\n            e = asyncio.Event()\n"
    "            asyncio.get_running_loop().call_soon_threadsafe(e.set); await e.wait(); return 2 * x\n"
    "        return asyncio.run(run())",
    "a pair of sockets": "import socket; a, b = socket.socketpair(); a.sendall(b'ab'); return x * len(b.recv(9))",
    "recursion of 3000": "f = lambda n: 0 if n == 0 else 1 + f(n - 1); return f(3000) - 3000 + 2 * x",
    "recursion of 90000": "f = lambda n: 0 if n == 0 else 1 + f(n - 1); return f(90000) - 90000 + 2 * x",
    "deep recursion through C": "import functools; f = functools.cache(lambda n: n and 1 + f(n - 1)); "
    "return f(45000) - 45000 + 2 * x",
    "deep recursion through a sort": "f = lambda n: n and sorted([n], key=lambda m: f(m - 1))[0]; f(30000); return 2 * x",
    "endless recursion that is caught": "f = lambda: f()\n        try: f()\n        except RecursionError: return 2 * x",
    "C types": "import ctypes; return ctypes.c_int(2 * x).value",
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(LIMITS) as one:
        one.layers()
        yield one


def value(sandbox: Sandbox, expression: str) -> object:
    code = PRELUDE.replace("{expression}", expression)
    lines = sandbox.run(Job("", code, ("Solution().tried()",))).lines
    return lines[1].get("v", "raised") if len(lines) > 1 else lines


def test_every_layer_reports_and_is_tried_here(sandbox: Sandbox):
    layers = [*layers_before_fork(), *layers_of_server()]
    assert [report.name for report in sandbox.layers()] == [layer.name for layer in layers]
    assert all(layer.covers for layer in layers) and {layer.name for layer in layers} == set(REFUSED)


@pytest.mark.parametrize("name", REFUSED)
def test_a_job_is_refused(sandbox: Sandbox, name: str):
    report = next(report for report in sandbox.layers() if report.name == name)
    if not report.available:
        pytest.skip(f"{name} cannot be had here: {report.detail}")
    assert value(sandbox, REFUSED[name]) is True


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_solution_passes(sandbox: Sandbox, name: str):
    with Grader("none", sandbox=sandbox) as grader:
        assert grader.grade(make_problem(), method(HONEST[name])).correct


@pytest.mark.parametrize("layer", [PidNamespace(), *layers_of_server()], ids=lambda layer: layer.name)
def test_a_probe_notices_a_layer_without_effect(
    layer: Layer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if os.geteuid() != 0 and layer.name in ("user", "capabilities"):
        pytest.skip("this user has nothing to give up")
    monkeypatch.setattr(kernel, "unshare", lambda flags: None)
    place = Place(str(tmp_path), LIMITS, jobs=str(tmp_path))
    child = os.fork()
    if child == 0:
        os.chdir(tmp_path)
        try:
            if isinstance(layer, Namespace):
                layer.start(place)  # remembers which namespace is the outer one
            layer.check(place)
        except OSError as error:
            os._exit(0 if "still possible" in str(error) else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_no_job_sees_the_files_of_another(sandbox: Sandbox):
    assert value(sandbox, "open('left', 'w').write('x')") == 1
    assert value(sandbox, "[os.listdir('.'), refused(os.listdir, '..')]") == [[], True]


def test_the_minimum():
    def reports(*missing: str) -> list[LayerReport]:
        return [LayerReport(name, name not in missing, "") for name in REFUSED]

    assert missing_from_minimum(reports()) == missing_from_minimum(reports("landlock", "user")) == frozenset()
    assert missing_from_minimum(reports("private_root", "pid_namespace")) == frozenset()
    assert missing_from_minimum(reports("seccomp", "private_root")) == {"seccomp"}
    assert len(missing_from_minimum(reports("landlock", "private_root"))) == 1
    assert set().union(*MINIMUM) <= set(REFUSED)


# What a container may deny. The script denies itself these calls, then asks a sandbox what it has left.
DENIED = """
import json, platform, sys
from reward.sandbox import Job, Sandbox, SandboxFault, SandboxLimits
from reward.sandbox.layers import kernel, seccomp
numbers = {"x86_64": {"unshare": 272, "seccomp": 317, "setresuid": 117, "prlimit": 302},
           "aarch64": {"unshare": 97, "seccomp": 277, "setresuid": 147, "prlimit": 261}}[platform.machine()]
numbers["landlock"] = 444
answers = {numbers[name]: seccomp.refused(38) for name in sys.argv[2:]}
kernel.prctl(kernel.NO_NEW_PRIVS, 1)
architecture = seccomp.syscalls.MACHINES[platform.machine()][0]
seccomp.Filter(seccomp.program(architecture, answers, seccomp.ALLOWED)).install()
told = {"missing": [], "error": "", "faults": 0}
with Sandbox(SandboxLimits(allow_weak=sys.argv[1] == "weak")) as sandbox:
    try:
        told["missing"] = [one.name for one in sandbox.layers() if not one.available]
        told["lines"] = sandbox.run(Job("", "import os, base64", ("6 * 7", "os.listdir('/tmp')"))).lines
        fill = "import time\\nfor n in range(99): open(str(n), 'wb').write(b'x' * 2 ** 20); time.sleep(0.01)"
        told["filled"] = sandbox.run(Job("", fill)).status
    except SandboxFault as error:
        told["error"] = f"{type(error).__name__}: {error}"
    told["faults"] = sandbox.faults
print(json.dumps(told))
"""
NAMESPACES = ["pid_namespace", "net_namespace", "ipc_namespace", "uts_namespace"]


def denied(mode: str, *calls: str) -> dict[str, Any]:
    command = [sys.executable, "-c", DENIED, mode, *calls]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_an_unavailable_layer_is_reported_and_the_rest_is_used():
    told = denied("strict", "landlock")
    assert told["missing"] == ["landlock"] or set(told["missing"]) > {"landlock"}
    assert told["lines"][:2] == [{"s": "compiled"}, {"i": 0, "v": 42}] and "e" in told["lines"][2]
    assert told["faults"] == 0
    told = denied("strict", "unshare")
    assert set(told["missing"]) >= {"private_root", *NAMESPACES} and "landlock" not in told["missing"]
    assert told["lines"][:2] == [{"s": "compiled"}, {"i": 0, "v": 42}] and "e" in told["lines"][2]
    assert told["filled"] == "output"  # no tmpfs bounds the scratch folder, so the server looks at its size
    assert "user" in denied("strict", "setresuid")["missing"]


@pytest.mark.parametrize("calls", [("seccomp",), ("unshare", "landlock"), ("prlimit",)])
def test_without_the_minimum_it_refuses_unless_told(calls: tuple[str, ...]):
    told = denied("strict", *calls)
    assert str(told["error"]).startswith("WeakSandbox") and "allow_weak" in str(told["error"])
    assert told["faults"] == 0 and "lines" not in told  # nothing has run, nothing was tried twice
    told = denied("weak", *calls)
    assert told["error"] == "" and told["lines"][1] == {"i": 0, "v": 42}


def test_a_weak_sandbox_is_a_fault():
    assert issubclass(WeakSandbox, SandboxFault)


AS_USER = """
import json, os, sys
from reward import Grader, SandboxLimits
from tests.reward.helpers import make_problem, method
with Grader("run_tests", limits=SandboxLimits(cpu_s=1, wall_s=2)) as grader:
    bodies = ["return 2 * x", "return x", "import os; os.kill(os.getppid(), 9)", "while True: pass",
              "import socket; socket.socket(); return 2 * x", "return 2 * x if open('/etc/passwd') else 0",
              "import os; open('../left', 'w'); os.chmod('..', 0); return 2 * x",
              "import os; return 0 if os.path.exists('../left') else 2 * x"]
    verdicts = [grader.grade(make_problem(), method(body)).correct for body in [*bodies, bodies[0]]]
    layers = {one.name: one.available for one in grader._sandboxes[0].layers()}
print(json.dumps([verdicts, layers, grader.faults, os.getuid()]))
"""
NOBODY = ("--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs")
NO_CAPABILITIES = ("--bounding-set=-all", "--inh-caps=-all")


@pytest.mark.parametrize("who", [NOBODY, NO_CAPABILITIES], ids=["ordinary user", "root without capabilities"])
def test_it_works_as(who: tuple[str, ...]):
    setpriv, python = shutil.which("setpriv"), _python_for_all(who)
    if setpriv is None or python is None:
        pytest.skip("needs root, setpriv and an interpreter that every user may run")
    command = [setpriv, *who, python, "-B", "-c", AS_USER]
    done = subprocess.run(
        command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    verdicts, layers, faults, uid = json.loads(done.stdout)
    assert verdicts == [True, *[False] * 6, True, True] and faults == 0
    assert layers["seccomp"] and layers["capabilities"] and not layers["user"]
    assert uid == (65534 if who is NOBODY else 0)


def _python_for_all(who: tuple[str, ...]) -> str | None:
    # setpriv may run what the user may not run again
    check = (
        "import sys, subprocess as s; s.run([sys.executable, '-c', '']); sys.exit(sys.version_info < (3, 11))"
    )
    for python in (sys.executable, "/usr/bin/python3"):
        command = ["setpriv", *who, python, "-S", "-c", check]
        if Path(python).exists() and subprocess.run(command, cwd="/", capture_output=True).returncode == 0:
            return python
    return None
