"""A run folder on disk -> `report.md` with plots. Knows the files of a run, not how they came about."""

from evil_moe.report.files import RunFolderError
from evil_moe.report.load import Curve, Evaluation, Rates, RolloutStep, Run, load_run
from evil_moe.report.write import write_report

__all__ = [
    "Curve",
    "Evaluation",
    "Rates",
    "RolloutStep",
    "Run",
    "RunFolderError",
    "load_run",
    "write_report",
]
