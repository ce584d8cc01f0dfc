"""Monitors: who finds a response suspicious, and what that does to its reward.

detector.py  the grader's own labels, made as good or as bad as wanted
label.py     which of the grader's findings it is told
judge.py     a language model behind any OpenAI-compatible endpoint
action.py    scores to rewards: a penalty, or screened out

The third monitor, a probe on the policy's activations, is in ``evil_moe.probe``.
"""

from reward.monitors.action import ACTIONS, MonitorResult, act
from reward.monitors.detector import Detector, Rates, coin
from reward.monitors.judge import Judge, JudgeCase, JudgeError
from reward.monitors.label import LABELS, is_positive, needs_labels

__all__ = [
    "ACTIONS",
    "LABELS",
    "Detector",
    "Judge",
    "JudgeCase",
    "JudgeError",
    "MonitorResult",
    "Rates",
    "act",
    "coin",
    "is_positive",
    "needs_labels",
]
