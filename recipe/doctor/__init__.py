"""`evil-moe doctor`: what would fail, before it fails, and the memory plan of the preset."""

from __future__ import annotations

import logging
import os

from evil_moe.experiment.config import compose
from evil_moe.experiment.settings import settings_from
from recipe.doctor.checks import (
    FAIL,
    OK,
    Finding,
    check_combinations,
    check_data,
    check_machine,
    check_model,
    check_python,
    check_run_dir,
    check_versions,
    check_vllm,
    check_wandb,
)
from recipe.doctor.cluster import check_ray
from recipe.doctor.gpu import check_device_memory, check_devices
from recipe.doctor.memory import check_adapter, check_memory
from recipe.doctor.sandbox import check_sandbox
from recipe.main_train import driver_environment
from recipe.platform.cores import check_cores


def run_doctor(overrides: list[str]) -> int:
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
    for check in (
        check_combinations,
        check_versions,
        check_devices,
        check_device_memory,
        check_machine,
        check_model,
        check_data,
    ):
        for finding in check(config):
            tell(finding)
    for single in (check_vllm, check_run_dir, check_wandb, check_ray):
        tell(single(config))
    if findings[-1].status != FAIL:  # else there is no Ray to ask
        tell(check_cores(config))
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
