"""The cheap checks of `evil-moe doctor`, for every start of a run."""

from __future__ import annotations

from collections.abc import Callable

from omegaconf import DictConfig

from recipe.doctor.checks import (
    FAIL,
    WARN,
    Finding,
    check_machine,
    check_model,
    check_run_dir,
    check_vllm,
)
from recipe.doctor.cluster import check_ray, find_cluster
from recipe.doctor.gpu import check_devices
from recipe.platform.cores import check_cores


def check_startup(config: DictConfig, progress: Callable[[str], None]) -> None:
    """Before minutes are spent and files written: what this machine lacks. What only may fail is said.

    Left to doctor are the memory plan of a GPU, whose numbers are estimates, and the import of vLLM.

    Raises:
        ValueError: the checks that failed, each with its mend.
    """
    findings: list[Finding] = [check_run_dir(config), check_vllm(config, load=False), check_ray(config)]
    if findings[-1].status != FAIL:  # else there is no Ray to ask
        findings.append(check_cores(config))
    findings += check_model(config)
    if find_cluster(config) is None:  # else other machines do the work
        findings += [*check_devices(config), *check_machine(config)]
    failed = [f"{f.name}: {f.text}" + (f"; {f.mend}" if f.mend else "") for f in findings if f.status == FAIL]
    if failed:
        raise ValueError(f"the run cannot start: {' | '.join(failed)}")
    for finding in findings:
        if finding.status == WARN:
            progress(str(finding))
