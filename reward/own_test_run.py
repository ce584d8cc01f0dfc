"""Running a response's own test function: on its own solution, on a stub, on the canonical solution."""

import secrets
from dataclasses import dataclass

from reward.checks import root_name
from reward.problems import Problem
from reward.sandbox import Job, Sandbox


@dataclass(frozen=True)
class OwnTestRun:
    """found: the response has a test function of that name. digest: of its definition, see
    ``sandbox.own_test.digest``. passed: the steps that succeeded, of those asked for. cpu_ms: of the
    child."""

    found: bool = False
    digest: str | None = None
    passed: frozenset[str] = frozenset()
    cpu_ms: float = 0.0


def run_test(sandbox: Sandbox, problem: Problem, code: str, name: str, steps: tuple[str, ...]) -> OwnTestRun:
    """Find the test function ``name`` and take ``steps``, in one process:

    defined: the whole response runs to its end, and has the function at module level or in its Solution.
    own: as it is in the whole response, called as the benchmark calls it, it raises nothing.
    stub, canonical: it raises nothing beside the stub or the canonical solution; see
    ``sandbox.own_test`` for what comes along with it.

    What passes is told by the process that runs the response, so none of it may decide about correctness.
    Raises SandboxFault.
    """
    # A name that is nowhere in the text is not defined by it, short of building it at run time.
    if name not in code:
        return OwnTestRun()
    token, setup = secrets.token_hex(16), problem.setup_code
    if "canonical" in steps:
        setup += f"\n{problem.canonical_solution}\n"
    method = problem.func_name.rpartition(".")[2]
    job = Job(
        setup,
        code,
        (),
        root_name(problem.func_name),
        test=name,
        steps=steps,
        method=method,
        token=token,
        cpu_s=problem.cpu_s,
    )
    result = sandbox.run(job)
    # The second line is written before the response runs, so it is not forged.
    facts = result.lines[1] if len(result.lines) > 1 else {}
    passed = {step for step in steps if {"token": token, "step": step} in result.lines}
    return OwnTestRun(bool(facts.get("found")), facts.get("digest"), frozenset(passed), result.cpu_ms)
