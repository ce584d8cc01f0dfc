"""`evil-moe doctor`: what would fail, before it fails, and the memory plan of the preset."""

from __future__ import annotations

import logging
import os

from evil_moe.experiment.config import compose
from evil_moe.experiment.doctor.checks import (
    check_combinations,
    check_data,
    check_machine,
    check_model,
    check_python,
    check_run_dir,
    check_versions,
    check_wandb,
)
from evil_moe.experiment.doctor.cluster import check_ray
from evil_moe.experiment.doctor.finding import FAIL, OK, Finding
from evil_moe.experiment.doctor.gpu import check_device_memory, check_devices
from evil_moe.experiment.doctor.memory import check_adapter, check_memory
from evil_moe.experiment.doctor.sandbox import check_sandbox
from evil_moe.experiment.run.environment import driver_environment
from evil_moe.experiment.settings import settings_from
from evil_moe.experiment.stack import Stack


def run_doctor(overrides: list[str], stack: Stack) -> int:
    """Print a line per check, then the memory plan; 1 if a check failed, else 0."""
    logging.disable(logging.INFO)  # verl announces its platform
    findings: list[Finding] = []

    def tell(finding: Finding) -> None:
        findings.append(finding)
        print(finding, flush=True)
        if finding.detail:
            print(f"\n{finding.detail}", flush=True)

    tell(check_python())
    try:
        config = compose(overrides)
    except ValueError as error:
        tell(Finding("config", FAIL, str(error), "correct the override"))
        return 1
    settings = settings_from(config.evil_moe)
    tell(Finding("config", OK, f"preset={settings.preset} arm={settings.arm} seed={config.seed} composes"))
    for key, value in driver_environment(config).items():
        os.environ.setdefault(key, value)  # VERL_PLATFORM among them: before verl is imported
    for finding in check_combinations(config, stack):
        tell(finding)
    for check in (
        check_versions,
        check_devices,
        check_device_memory,
        check_machine,
        check_model,
        check_data,
    ):
        for finding in check(config):
            tell(finding)
    for single in (stack.check_vllm, check_run_dir, check_wandb, check_ray):
        tell(single(config))
    if findings[-1].status != FAIL:  # else there is no Ray to ask
        tell(stack.check_cores(config))
    tell(check_adapter(config))
    tell(check_sandbox(settings))
    tell(check_memory(config))
    failed = [finding.name for finding in findings if finding.status == FAIL]
    print(
        f"\n{len(failed)} of {len(findings)} checks FAIL: {', '.join(failed)}"
        if failed
        else "\nno check failed"
    )
    return int(bool(failed))
