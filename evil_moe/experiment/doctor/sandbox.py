"""The sandbox's line of `evil-moe doctor`, the one check that starts something."""

from __future__ import annotations

from evil_moe.experiment.doctor.finding import FAIL, OK, WARN, Finding
from evil_moe.experiment.settings import EvilMoESettings


def check_sandbox(settings: EvilMoESettings) -> Finding:
    """Grade a right and a wrong answer with the run's limits."""
    from evil_moe.experiment.grading import limits_from
    from reward.grader import Grader
    from reward.problems import Problem
    from reward.sandbox import Sandbox, SandboxFault, WeakSandbox, missing_from_minimum, packages

    limits = limits_from(settings.reward)
    problem = Problem(
        id=0,
        prompt=[{"role": "user", "content": "Add."}],
        question="Add.",
        func_name="Solution().add",
        setup_code="",
        gt_answer=("assert Solution().add(1, 2) == 3",),
    )
    answers = (
        f"```python\nclass Solution:\n    def add(self, a, b):\n        return a {sign} b\n```"
        for sign in "+-"
    )
    try:
        with Sandbox(limits) as sandbox, Grader("none", sandbox=sandbox) as grader:
            layers = sandbox.layers()
            right, wrong = (grader.grade(problem, answer) for answer in answers)
    except WeakSandbox as error:
        return Finding("sandbox", FAIL, str(error))
    except SandboxFault as error:
        return Finding(
            "sandbox", FAIL, str(error), "check that this user may start processes and set limits (ulimit -a)"
        )
    if not right.correct or wrong.correct:
        text = f"a right answer was graded {right.correct}, a wrong one {wrong.correct}"
        return Finding("sandbox", FAIL, text, "raise evil_moe.reward.cpu_s, wall_s and memory_mib")
    missing = missing_from_minimum(layers)
    absent = packages.absent(limits.packages)
    mends = []
    if missing:
        mends.append(f"weak, without {', '.join(sorted(missing))}, as evil_moe.reward.allow_weak asks")
    if absent:
        mends.append(
            f"answers that import {', '.join(absent)} are wrong: install what is missing, or take it out of evil_moe.reward.packages"
        )
    return Finding(
        "sandbox",
        WARN if mends else OK,
        f"grades right and wrong apart, {right.cpu_ms:.0f} ms CPU an answer, "
        f"{sum(one.available for one in layers)} of {len(layers)} layers of isolation",
        "; ".join(mends),
        detail="\n".join(
            f"  {'ok' if one.available else '--':<3}{one.name:<16} {one.detail}".rstrip() for one in layers
        ),
    )
