"""The environment: problems, loopholes, the sandbox and the grader. Pure standard library, usable alone.

with Grader("run_tests") as grader:
    verdict = grader.grade(problem, response)
"""

from reward.grader import Grader
from reward.loopholes import LOOPHOLES, Loophole, get_loophole
from reward.problems import Message, Problem, checksum, load_problems, write_problems
from reward.sandbox import Sandbox, SandboxFault, SandboxLimits
from reward.verdict import RewardConfig, Verdict

__all__ = [
    "LOOPHOLES",
    "Grader",
    "Loophole",
    "Message",
    "Problem",
    "RewardConfig",
    "Sandbox",
    "SandboxFault",
    "SandboxLimits",
    "Verdict",
    "checksum",
    "get_loophole",
    "load_problems",
    "write_problems",
]
