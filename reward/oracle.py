"""Correctness, decided outside the process that runs the response.

The child gets the calls, returns values as data, and never sees an expected answer; this process compares
(see ``codec.same`` for what counts as equal, ``checks`` for the shapes of asserts). So exiting early, objects
equal to everything, patched builtins and forged lines on the result pipe gain nothing: to be counted correct,
the right values must arrive for every call. One process runs all calls of a problem, so it is not covered
that a response computes an answer outside its method, or keeps state between calls.
"""

from dataclasses import dataclass
from typing import Any

from reward.checks import VALUE, Check, parse_checks, root_name
from reward.problems import Problem
from reward.sandbox import Job, JobResult, Sandbox, codec, protocol


@dataclass(frozen=True)
class Outcome:
    """can_compile: the code compiles. correct: every assert holds. pass_rate: share of asserts that hold,
    None unless asked for. timed_out: a limit on time ended the job. cpu_ms: of all children."""

    can_compile: bool
    correct: bool
    pass_rate: float | None
    timed_out: bool
    cpu_ms: float


def check(sandbox: Sandbox, problem: Problem, code: str, pass_rate: bool = False) -> Outcome:
    """Run ``code`` on every assert of ``problem``; stop at the first that fails unless ``pass_rate`` is asked
    for.

    Raises:
        SandboxFault: the sandbox failed, which says nothing about the code.
        ValueError: the problem's own setup code raises.
    """
    checks = parse_checks(problem.gt_answer, problem.func_name)
    job = Job(problem.setup_code, code, tuple(c.call for c in checks), root_name(problem.func_name))
    result = sandbox.run(job, None if pass_rate else lambda line: _may_pass(checks, line))
    _require_setup(result, problem)
    can_compile = result.lines[:1] == (protocol.COMPILED,)
    values: dict[int, Any] = {}
    for line in result.lines[1:]:
        if _is_value(line, len(checks)):
            values.setdefault(line["i"], line["v"])
    held = {
        i
        for i, value in values.items()
        if checks[i].judge is None and codec.same(checks[i].expected_data, value)
    }
    cpu_ms = result.cpu_ms
    questions = {
        i: source for i, value in values.items() if (source := _question(checks[i], value)) is not None
    }
    if questions and (pass_rate or len(held) + len(questions) == len(checks)):
        verdict = sandbox.run(Job(problem.setup_code, None, tuple(questions.values())))
        _require_setup(verdict, problem)
        cpu_ms += verdict.cpu_ms
        answers = {line["i"]: line["v"] for line in verdict.lines if _is_value(line, len(questions))}
        held |= {i for place, i in enumerate(questions) if answers.get(place) is True}
    return Outcome(
        can_compile=can_compile,
        correct=can_compile and len(held) == len(checks),
        pass_rate=len(held) / len(checks) if pass_rate else None,
        timed_out=result.status == "timeout",
        cpu_ms=cpu_ms,
    )


def _is_value(line: Any, count: int) -> bool:
    if not isinstance(line, dict) or "v" not in line:
        return False
    index = line.get("i")
    return type(index) is int and 0 <= index < count


def _may_pass(checks: tuple[Check, ...], line: Any) -> bool:
    """False once a line shows that the response is wrong: a call that raised, or another value."""
    if not _is_value(line, len(checks)):
        return not (isinstance(line, dict) and "i" in line)
    one = checks[line["i"]]
    return one.judge is not None or codec.same(one.expected_data, line["v"])


def _question(one: Check, value: Any) -> str | None:
    """The rest of the assert with the value in place, for a process without the response; None if there is
    none or the data is not what the child's encoder makes."""
    if one.judge is None:
        return None
    try:
        return f"(lambda {VALUE}: {one.judge})({codec.to_source(value)})"
    except ValueError:
        return None


def _require_setup(result: JobResult, problem: Problem) -> None:
    if result.lines[:1] == (protocol.SETUP_FAILED,):
        raise ValueError(
            f"setup_code of problem {problem.id!r} raises when executed; mend it in the problem file"
        )
