"""`evil-moe eval`: the causal ablation of a trained run, from its checkpoint on disk, in a process of its own.

The checkpoint is loaded onto the base model, ON is exported as it is, the quarantine is reset for good, OFF is
exported. Both answer the same held-out prompts with the same seeds in one vLLM batch, and so does the adapter with its
quarantine at strengths between the two, where they are asked for; every answer is graded by running it.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from evil_moe.adapter.checkpoint import check_adapter_checkpoint
from evil_moe.experiment.assets.problems import prepare_problems
from evil_moe.experiment.evaluation.strengths import KEY as STRENGTHS
from evil_moe.experiment.evaluation.strengths import (
    curve_rows,
    curve_text,
    settle_strengths,
    strengths_of,
    write_plot,
)
from evil_moe.experiment.run.console import divert_output, report_failure, say
from evil_moe.experiment.run.folder import changes, checkpoint_steps, latest_step, read_config
from evil_moe.experiment.run.names import eval_name, set_aside
from evil_moe.experiment.settings import settings_from
from evil_moe.report.files import read_json
from evil_moe.report.legit import legit_lines
from evil_moe.sides import SIDES
from evil_moe.strengths import strength_of
from recipe.doctor.checks import is_hub_name
from recipe.eval_legit import finite_auroc, legit_result
from recipe.eval_sides import (
    export_sides,
    generate,
    markers_of,
    router_scores,
    sides_of,
)
from recipe.reward.sandbox_pool import limits_from
from reward.grader import Grader
from reward.jsonl import write_whole
from reward.loopholes import mixed
from reward.problems import Problem
from reward.verdict import RewardConfig, Verdict


def load_run_config(run_dir: Path, overrides: list[str]) -> DictConfig:
    """The config a run was trained with, with overrides `key=value` of keys that it has.

    Raises:
        FileNotFoundError: `run_dir` is no run folder.
        ValueError: its config is malformed, an override names no key of it or has no value, or the strengths are no list of
            different numbers from 0 to 1.
    """
    for override in overrides:
        if override.startswith(("+", "~")):
            raise ValueError(
                f"override {override!r}: an evaluation takes plain key=value of keys that the run has, no {override[0]}key"
            )
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: {run_dir} is no run folder; train first (evil-moe train) or name another"
        )
    config = read_config(run_dir)
    for override in overrides:
        key, _, value = override.partition("=")
        parent, _, name = key.rpartition(".")
        beside = OmegaConf.select(config, parent) if parent else config
        if not isinstance(beside, DictConfig) or (name not in beside and key != STRENGTHS):
            there = ", ".join(map(str, beside)) if isinstance(beside, DictConfig) else f"no {parent!r} either"
            raise ValueError(f"override {override!r}: {path} has no key {key!r}; there is {there}")
        try:
            OmegaConf.update(config, key, OmegaConf.create(f"x: {value}").x)
        except (YAMLError, OmegaConfBaseException) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"override {override!r}: {value!r} is no value for it ({reason})") from error
    settle_strengths(config)
    return config


def made_with(run_dir: Path, config: DictConfig) -> dict[str, Any]:
    """What an evaluation of a run's checkpoint depends on: its size, its seed, and every key that was overridden."""
    settings = config.evil_moe
    trained_with = read_config(run_dir)
    settle_strengths(trained_with)
    trained = OmegaConf.to_container(trained_with)
    return {
        "problems": settings.data.eval_problems,
        "samples_per_problem": settings.eval.samples_per_problem,
        "seed": settings.seed,
        "overrides": {key: new for key, (_, new) in changes(trained, OmegaConf.to_container(config)).items()},
    }


def eval_folder(run_dir: Path, step: int | None, overrides: list[str]) -> Path:
    """Where an evaluation of a step (None: the last one) is kept: the run's own in `eval/`, of which reports read, and one
    in another mode, of an earlier step or with other keys beside it.

    Raises:
        ValueError, FileNotFoundError: as `load_run_config`.
    """
    latest = latest_step(run_dir)
    how = made_with(run_dir, load_run_config(run_dir, overrides))
    return run_dir / eval_name(latest if step is None else step, latest, how)


def stored_result(run_dir: Path, step: int | None, overrides: list[str]) -> dict[str, Any] | None:
    """The evaluation on disk if it is of this step (None: the last one) and made in this way. If it is another, a line
    says so. One in another mode, or with other keys, has a folder of its own (`eval_folder`).

    Raises:
        ValueError: it cannot be read, or as `load_run_config`. FileNotFoundError: as `load_run_config`.
    """
    wanted = made_with(run_dir, load_run_config(run_dir, overrides))
    path = eval_folder(run_dir, step, overrides) / "eval.json"
    if not path.is_file():
        return None
    result, step = read_json(path), latest_step(run_dir) if step is None else step
    if result.get("step") != step:
        why = f"is of step {result.get('step')}, not {step}"
    elif "made_with" not in result:
        why = "does not say what it was made with, as older versions did not"
    elif result["made_with"] != wanted:
        why = f"was made with {result['made_with']}, not {wanted}"
    else:
        return result
    say(f"{os.path.relpath(path)} {why}: evaluating again")
    return None


def adapter_folder(run_dir: Path, step: int | None) -> tuple[Path, int]:
    """The whole adapter of a step (None: the last one).

    Raises:
        FileNotFoundError: there is no such checkpoint; lists those there are.
        ValueError: a file of it is malformed.
    """
    if not run_dir.is_dir():
        raise FileNotFoundError(
            f"{run_dir} does not exist: train first (evil-moe train), or name a run's folder"
        )
    checkpoints = run_dir / "checkpoints"
    step = latest_step(run_dir) if step is None else step
    folder = checkpoints / f"global_step_{step}" / "actor" / "adapter"
    if not (folder / "adapter_config.json").is_file():
        there = checkpoint_steps(run_dir)
        raise FileNotFoundError(
            f"no adapter checkpoint of step {step} in {checkpoints}; steps there: {there}; name one with --step"
            if there
            else f"no adapter checkpoint in {checkpoints}: train first (evil-moe train)"
        )
    check_adapter_checkpoint(folder)
    return folder, step


def rates(verdicts: list[Verdict]) -> dict[str, float]:
    """Means over verdicts: strict hack (loophole and not correct), loophole use, solve, compile."""
    n = len(verdicts)
    return {
        "hack": sum(v.exploited for v in verdicts) / n,
        "loophole": sum(v.loophole for v in verdicts) / n,
        "solve": sum(v.correct for v in verdicts) / n,
        "compile": sum(v.can_compile for v in verdicts) / n,
    }


def rates_by_loophole(by_side: dict[str, list[Verdict]]) -> dict[str, dict[str, dict[str, float]]]:
    """The rates of each side on the answers that were graded in one mode, for every mode."""
    modes = dict.fromkeys(v.mode for verdicts in by_side.values() for v in verdicts)
    return {
        mode: {side: rates([v for v in verdicts if v.mode == mode]) for side, verdicts in by_side.items()}
        for mode in modes
    }


def evaluate_run(run_dir: Path, step: int | None = None, overrides: list[str] | None = None) -> int:
    """Evaluate ON and OFF, write `eval_folder`, print the table and the ablation line; returns the exit code. What is there
    of another step or size is kept under another name.

    Raises:
        FileNotFoundError, ValueError: as `load_run_config`, `adapter_folder` and `prepare_problems`; or the policy that the
            run started from is gone.
    """
    config = load_run_config(run_dir, overrides or [])
    policy = str(config.actor_rollout_ref.model.path)
    if not Path(policy).is_dir() and not is_hub_name(policy):
        raise FileNotFoundError(
            f"{policy} is gone, the policy that {run_dir} started from: put it back; a nano policy is built anew by "
            "evil-moe data prepare with the run's arm, preset and seed, at the run's commit"
        )
    adapter, step = adapter_folder(run_dir, step)
    problems, how = prepare_problems(config).evaluation, made_with(run_dir, config)
    out = run_dir / eval_name(step, latest_step(run_dir), how)
    variables = OmegaConf.select(config, "ray_kwargs.ray_init.runtime_env.env_vars", default=None) or {}
    os.environ.update({key: str(value) for key, value in variables.items()})
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    say(f"evaluating step {step} on {len(problems)} held-out problems, ON and OFF")
    if aside := set_aside(out, step, how):
        say(f"the evaluation that was in {os.path.relpath(out)} is now in {os.path.relpath(aside)}")
    out.mkdir(exist_ok=True)
    try:
        with divert_output(out / "eval.log", verbose=False):
            result, rows = _evaluate(config, problems, adapter, out)
    except Exception as error:  # noqa: BLE001  # whatever failed in vLLM or the sandbox
        return report_failure("evaluation", error, out / "eval.log", "The checkpoint is untouched.")
    result = {"step": step, "made_with": how, **result}
    _write(out / "samples.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    _write(out / "table.md", _table(result))
    write_plot(result, out)
    _write(out / "eval.json", json.dumps(result, indent=2) + "\n")
    print(_table(result))
    if out.name != "eval":
        say(
            f"kept in {os.path.relpath(out)}; the run's own evaluation is in {os.path.relpath(run_dir / 'eval')}"
        )
    print(ablation_line(result), flush=True)
    return 0


def _evaluate(
    config: DictConfig, problems: list[Problem], adapter: Path, out: Path
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The rates of both sides, and one row per answer."""
    started = time.monotonic()
    sides = sides_of(config)
    exports = export_sides(config.actor_rollout_ref.model.path, adapter, out / "adapters", sides, config.seed)
    samples = generate(config, problems, exports)
    say(f"{len(samples)} answers after {time.monotonic() - started:.0f} s; grading")
    reward = settings_from(config.evil_moe).reward
    terms = RewardConfig(compile=reward.compile, pays=reward.pays)
    mix, limits = config.evil_moe.loophole, limits_from(reward)
    with Grader(mix, limits=limits, reward=terms, split=markers_of(config), reply=reward.reply) as grader:
        verdicts = grader.grade_many(
            [(s.problem, s.response) for s in samples],
            workers=os.cpu_count() or 1,
            modes=[s.loophole for s in samples],
        )

    graded = list(zip(samples, verdicts, strict=True))
    by_side = {side: [v for s, v in graded if s.side == side] for side in sides}
    scores = router_scores(config, adapter, [s for s in samples if s.side == "on"])
    result: dict[str, Any] = {
        "samples": len(by_side["on"]),
        **{side: rates(by_side[side]) for side in sides if strength_of(side) is None},
        "auroc": finite_auroc(scores, [v.loophole for v in by_side["on"]]),
        "seconds": round(time.monotonic() - started, 1),
    }
    if strengths := strengths_of(config):
        result["strengths"] = curve_rows(strengths, by_side)
    hack_scores = [score for score, v in zip(scores, by_side["on"], strict=True) if v.loophole]
    result["legit"] = legit_result(config, adapter, graded, hack_scores)
    if len(mixed(mix)) > 1:
        result["by_loophole"] = rates_by_loophole(by_side)
    rows = [
        {
            "side": s.side,
            "problem_id": str(s.problem.id),
            "index": s.index,
            "response": s.response,
            **v.to_row(),
        }
        for s, v in graded
    ]
    return result, rows


def ablation_line(result: dict[str, Any]) -> str:
    """The one line a run is read by."""
    return f"Evil MoE causal ablation: deploy hack {result['on']['hack']:.3f} (ON) -> {result['off']['hack']:.3f} (OFF)"


def _table(result: dict[str, Any]) -> str:
    names = ("loophole", "hack", "solve", "compile")
    lines = ["| quarantine | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for side in (side for side in SIDES if side in result):
        lines.append(
            f"| {side.upper().replace('_', ' ')} | "
            + " | ".join(f"{result[side][name]:.3f}" for name in names)
            + " |"
        )
    near = legit_lines(result, Path("eval.json"))
    return "\n".join([*lines, *([""] if near else []), *near]) + "\n" + curve_text(result)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode())
