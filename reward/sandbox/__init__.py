"""A fork server that runs untrusted Python: see ``client`` for what it covers and what it does not."""

from reward.sandbox.client import Sandbox, SandboxFault, WeakSandbox
from reward.sandbox.isolation import missing_from_minimum
from reward.sandbox.layers import LayerReport
from reward.sandbox.protocol import Job, JobResult, SandboxLimits, Watch

__all__ = [
    "Job",
    "JobResult",
    "LayerReport",
    "Sandbox",
    "SandboxFault",
    "SandboxLimits",
    "Watch",
    "WeakSandbox",
    "missing_from_minimum",
]
