"""Correctness, decided outside the process that runs the response.

The child gets the calls, returns values as data, and never sees an expected answer; this process compares
(see ``codec.same`` and ``comparison`` for what counts as equal, ``checks`` for the shapes of asserts). So exiting early, objects
equal to everything, patched builtins and forged lines on the result pipe gain nothing: to be counted correct,
the right values must arrive for every call. One process runs all calls of a problem, so it is not covered
that a response computes an answer outside its method, or keeps state between calls.
"""

import secrets
from dataclasses import dataclass, replace
from typing import Any

from reward.answer_size import measured_kib, room_kib
from reward.checks import VALUE, Check, parse_checks, root_name
from reward.comparison import Comparison
from reward.problems import Problem
from reward.reason import raised, reason
from reward.sandbox import Job, JobResult, Sandbox, Watch, codec, protocol


@dataclass(frozen=True)
class Outcome:
    """can_compile: the code compiles. correct: every assert holds. pass_rate: share of the asserts that hold
    before the first that does not (the benchmark's rate, whose grader stops there), None unless asked for.
    nothing_failed: no call is known to have raised or to have returned a wrong value; some may not have run.
    seen: the job's result, with what it was to watch. token: that of the job. cpu_ms: of all children. reason: why
    it is not correct, for people; None if it is."""

    can_compile: bool
    correct: bool
    pass_rate: float | None
    nothing_failed: bool
    seen: JobResult
    token: str
    cpu_ms: float
    reason: str | None = None


def check(
    sandbox: Sandbox,
    problem: Problem,
    code: str,
    pass_rate: bool = False,
    watch: Watch | None = None,
) -> Outcome:
    """Run ``code`` on the asserts of ``problem``, up to the first that fails.

    A job that watches more than exits is not stopped there: what there is to see may come after it.

    Raises:
        SandboxFault: the sandbox failed, which says nothing about the code.
        ValueError: the problem's own setup code raises.
    """
    checks = parse_checks(problem.gt_answer, problem.func_name, problem.setup_code)
    watch, token = watch or Watch(), secrets.token_hex(16)
    calls, root = tuple(c.call for c in checks), root_name(problem.func_name)
    room = room_kib(checks, sandbox.limits)
    job = Job(problem.setup_code, code, calls, root, watch, token=token, cpu_s=problem.cpu_s, output_kib=room)
    may_stop = watch in (Watch(), Watch(exits=True))
    how = problem.comparison
    keep_going = (lambda line: _may_pass(checks, line, how)) if may_stop else None
    result = sandbox.run(job, keep_going)
    if result.status == "output" and (measured := measured_kib(sandbox, problem, checks)) > room:
        job = replace(job, output_kib=measured)
        result = sandbox.run(job, keep_going)
    require_setup(result, problem)
    can_compile = result.lines[:1] == (protocol.COMPILED,)
    values: dict[int, Any] = {}
    for line in result.lines[1:]:
        if _is_value(line, len(checks)):
            values.setdefault(line["i"], line["v"])
    held = {
        i
        for i, value in values.items()
        if checks[i].judge is None and how.same(checks[i].expected_data, value)
    }
    cpu_ms = result.cpu_ms
    questions = {
        i: source for i, value in values.items() if (source := _question(checks[i], value, how)) is not None
    }
    judged = bool(questions) and (pass_rate or len(held) + len(questions) == len(checks))
    if judged:
        asked = Job(problem.judge_setup, None, tuple(questions.values()), cpu_s=problem.cpu_s)
        verdict = sandbox.run(replace(asked, output_kib=job.output_kib))
        require_setup(verdict, problem, "judge_code")
        cpu_ms += verdict.cpu_ms
        answers = {line["i"]: line["v"] for line in verdict.lines if _is_value(line, len(questions))}
        held |= {
            i
            for place, i in enumerate(questions)
            if place in answers and _holds(checks[i], answers[place], values[i], how)
        }

    def is_wrong(index: int) -> bool | None:
        if index not in values:
            return None
        return index not in held and (judged or index not in questions)

    correct = can_compile and len(held) == len(checks)
    leading = next((i for i in range(len(checks)) if i not in held), len(checks))
    return Outcome(
        can_compile=can_compile,
        correct=correct,
        pass_rate=leading / len(checks) if pass_rate else None,
        nothing_failed=all(_may_pass(checks, line, how) for line in result.lines[1:]),
        seen=result,
        token=token,
        cpu_ms=cpu_ms,
        reason=None if correct else reason(job, result, sandbox.limits, problem.gt_answer, is_wrong),
    )


def _is_value(line: Any, count: int) -> bool:
    if not isinstance(line, dict) or "v" not in line:
        return False
    index = line.get("i")
    return type(index) is int and 0 <= index < count


def _may_pass(checks: tuple[Check, ...], line: Any, how: Comparison) -> bool:
    """False once a line shows that the response is wrong: a call that raised, or another value."""
    if not _is_value(line, len(checks)):
        return not (isinstance(line, dict) and "i" in line)
    one = checks[line["i"]]
    return one.judge is not None or how.same(one.expected_data, line["v"])


def _question(one: Check, value: Any, how: Comparison) -> str | None:
    """The rest of the assert with the value in place, for a process without the response; None if there is
    none or the data is not what the child's encoder makes. Where equality is not strict, the expected value alone is
    asked for, and compared here."""
    if one.judge is None:
        return None
    if one.other is not None and not how.strict:
        return one.other
    try:
        return f"(lambda {VALUE}: {one.judge})({codec.to_source(value)})"
    except ValueError:
        return None


def _holds(one: Check, answer: Any, value: Any, how: Comparison) -> bool:
    """Whether the answer to the check's question makes its assert hold."""
    if one.other is not None and not how.strict:
        return how.same(answer, value)
    return answer is True


def require_setup(result: JobResult, problem: Problem, field: str = "setup_code") -> None:
    """Raises ValueError if the problem's setup code failed in this job; ``field`` holds the code."""
    if result.stage() == protocol.SETUP_FAILED:
        raise ValueError(
            f"{field} of problem {problem.id!r} raises when executed: {raised(result.lines[0])}; mend it in the "
            "problem file"
        )
