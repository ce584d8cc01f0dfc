"""The cheap checks of `evil-moe doctor`, for every start of a run."""

from __future__ import annotations

from collections.abc import Callable

from omegaconf import DictConfig

from evil_moe.experiment.doctor.checks import check_machine, check_model, check_run_dir
from evil_moe.experiment.doctor.cluster import check_ray, find_cluster
from evil_moe.experiment.doctor.finding import FAIL, WARN, Finding
from evil_moe.experiment.doctor.gpu import check_devices
from evil_moe.experiment.stack import Stack


def check_startup(config: DictConfig, stack: Stack, progress: Callable[[str], None]) -> None:
    """Before minutes are spent and files written: what this machine lacks. What only may fail is said.

    Left to doctor are the memory plan of a GPU, whose numbers are estimates, and the import of vLLM.

    Raises:
        ValueError: the checks that failed, each with its mend.
    """
    findings: list[Finding] = [check_run_dir(config), stack.find_vllm(config), check_ray(config)]
    if findings[-1].status != FAIL:  # else there is no Ray to ask
        findings.append(stack.check_cores(config))
    findings += check_model(config)
    if find_cluster(config) is None:  # else other machines do the work
        findings += [*check_devices(config), *check_machine(config)]
    failed = [f"{f.name}: {f.text}" + (f"; {f.mend}" if f.mend else "") for f in findings if f.status == FAIL]
    if failed:
        raise ValueError(f"the run cannot start: {' | '.join(failed)}")
    for finding in findings:
        if finding.status == WARN:
            progress(str(finding))
