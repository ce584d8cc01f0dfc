"""`evil-moe train`: prepare, check, and have the trainer run.

Everything that verl, Ray and vLLM print goes to `train.log` of the run folder; the lines meant for people also go
to the terminal.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from evil_moe.experiment.config import compose
from evil_moe.experiment.run.console import INTERRUPTED, divert_output, report_failure, say
from evil_moe.experiment.run.environment import driver_environment
from evil_moe.experiment.run.folder import (
    check_run_folder,
    last_logged_step,
    latest_step,
    open_run_folder,
    resume_step,
)
from evil_moe.experiment.stack import Stack
from evil_moe.report.prereg import load_prereg

if TYPE_CHECKING:
    from evil_moe.experiment.assets.problems import Problems


def prepare(
    overrides: list[str], stack: Stack, progress: Callable[[str], None] = print
) -> tuple[DictConfig, Problems] | None:
    """Compose the config, check all that can be checked, and build or find the policy; None if the run is complete. Nothing
    is written into the run's folder.

    Raises:
        ValueError, FileNotFoundError, RuntimeError: what cannot work, and how to mend it.
    """
    from evil_moe.experiment.adapter_config import check_targets
    from evil_moe.experiment.assets.policies import policy_path, prepare_policy
    from evil_moe.experiment.assets.problems import fill_in, prepare_problems
    from evil_moe.experiment.config_checks import check_config, check_steps
    from evil_moe.experiment.doctor.memory import find_model_config
    from evil_moe.experiment.doctor.startup import check_startup
    from evil_moe.experiment.prompt_checks import check_prompts
    from evil_moe.experiment.run.inputs import fill_in_inputs

    config = compose(overrides)
    stack.check_version()
    check_config(config)
    problems = prepare_problems(config)
    check_steps(config, len(problems.train))
    folder = Path(config.evil_moe.run_dir)
    fill_in(config, policy_path(config), folder / "data")
    fill_in_inputs(config, problems)
    if (step := check_run_folder(config)) >= config.trainer.total_training_steps:
        progress(_nothing_to_train(folder, step))
        return None
    resume_step(folder)
    check_startup(config, stack, progress)
    prepare_policy(config, progress)
    if (model_config := find_model_config(config)) is not None:
        check_targets(config.actor_rollout_ref.model, model_config)
    check_prompts(config, problems, progress)
    return config, problems


def train(overrides: list[str], stack: Stack, *, verbose: bool = False, prereg: Path | None = None) -> int:
    """Run one arm to its last step; returns the exit code. A finished run is left as it is.

    The hash of `prereg`, or of the preset's hypotheses, goes into the run's provenance.

    Raises:
        ValueError, FileNotFoundError, RuntimeError: the config, the machine, the run folder or the hypotheses cannot be used;
            says why and how to mend it.
    """
    from evil_moe.experiment.assets.problems import write_parquet

    started = time.monotonic()
    if prereg is not None:
        load_prereg(prereg)  # malformed ones could not be answered later
    prepared = prepare(overrides, stack, progress=say)
    if prepared is None:
        return 0
    config, problems = prepared
    settings, total = config.evil_moe, int(config.trainer.total_training_steps)
    folder = Path(settings.run_dir)
    shown = os.path.relpath(folder)
    with open_run_folder(config, prereg) as step:
        if step >= total:  # by another process, since it was looked at
            say(_nothing_to_train(folder, step))
            return 0
        write_parquet(problems, settings.loophole, folder / "data", settings.prompt.inoculation)
        if step:
            say(f"resuming from step {step} in {shown}")
        say(f"starting Ray, vLLM and verl (a minute or two); everything they print is in {shown}/train.log")
        os.environ.update(driver_environment(config))
        try:
            with divert_output(folder / "train.log", verbose=verbose):
                stack.drive(config)
        except KeyboardInterrupt:
            say(f"stopped; {_how_it_goes_on(folder)}")
            return INTERRUPTED
        except Exception as error:  # noqa: BLE001  # whatever failed in verl, Ray or vLLM, in any process
            resume = f"What is saved is untouched: {_how_it_goes_on(folder)}."
            return report_failure("training", error, folder / "train.log", resume)
    reached = last_logged_step(folder)
    say(f"trained to step {reached} in {time.monotonic() - started:.0f} s")
    if reached < total:
        say(
            f"that is short of trainer.total_training_steps={total}: verl ran out of problems, or was told to"
        )
    if (saved := latest_step(folder)) < reached:
        say(f"its last checkpoint is of step {saved}: trainer.save_freq={config.trainer.save_freq}")
    return 0


def _nothing_to_train(folder: Path, step: int) -> str:
    return f"{os.path.relpath(folder)} is complete ({step} steps): nothing to train"


def _how_it_goes_on(folder: Path) -> str:
    try:
        return f"the same command resumes from step {latest_step(folder)}"
    except ValueError as error:  # the disk was full, say, while the step was written
        return str(error)
