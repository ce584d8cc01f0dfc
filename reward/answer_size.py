"""How much the values of a problem's calls may take on their way out of the sandbox: as much as right ones do.

The limit exists for the grader's memory, so it follows what is expected: text of a literal is at hand, and what is
computed (``== [i * i for i in range(10 ** 5)]``) is measured once a job has met the limit.
"""

from collections.abc import Sequence

from reward.checks import Check
from reward.problems import Problem
from reward.sandbox import Job, Sandbox, SandboxLimits

_TIMES = 4  # equal values may be written longer: 1e16 as an int, a letter as an escape


def room_kib(checks: Sequence[Check], limits: SandboxLimits) -> int:
    """The sandbox's own limit, and room for the literals."""
    return limits.output_kib + _TIMES * sum(len(one.expected or "") for one in checks) // 1024


def measured_kib(sandbox: Sandbox, problem: Problem, checks: Sequence[Check]) -> int:
    """The same, and room for what is computed: measured in a process that has not seen the response. Raises
    SandboxFault."""
    sizes = tuple(f"len(ascii({one.other}))" for one in checks if one.other is not None)
    result = sandbox.run(Job(problem.judge_setup, None, sizes, cpu_s=problem.cpu_s))
    values = [line.get("v") for line in result.lines if isinstance(line, dict)]
    found = [value for value in values if type(value) is int]
    return room_kib(checks, sandbox.limits) + _TIMES * sum(found) // 1024
