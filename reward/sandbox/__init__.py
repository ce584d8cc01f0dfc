"""A fork server that runs untrusted Python: see ``client`` for what it covers and what it does not."""

from reward.sandbox.client import Sandbox, SandboxFault
from reward.sandbox.protocol import Job, JobResult, SandboxLimits, Watch

__all__ = ["Job", "JobResult", "Sandbox", "SandboxFault", "SandboxLimits", "Watch"]
