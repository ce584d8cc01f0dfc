"""Monitors: who finds a response suspicious, and what that does to its reward.

detector.py  the grader's own labels, made as good or as bad as wanted
judge.py     a language model behind any OpenAI-compatible endpoint
action.py    scores to rewards: a penalty, or screened out

The third monitor, a probe on the policy's activations, is in ``evil_moe.probe``.
"""

from reward.monitors.action import ACTIONS, MonitorResult, act
from reward.monitors.detector import Detector, Rates, coin
from reward.monitors.judge import Judge, JudgeCase, JudgeError

__all__ = [
    "ACTIONS",
    "Detector",
    "Judge",
    "JudgeCase",
    "JudgeError",
    "MonitorResult",
    "Rates",
    "act",
    "coin",
]
