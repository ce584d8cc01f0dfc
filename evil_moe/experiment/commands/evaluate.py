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

from evil_moe.experiment.assets.problems import prepare_problems
from evil_moe.experiment.doctor.checks import is_hub_name
from evil_moe.experiment.evaluation.legit import finite_auroc, legit_result
from evil_moe.experiment.evaluation.rates import rates, rates_by_loophole
from evil_moe.experiment.evaluation.sides import (
    export_sides,
    markers_of,
    questions,
    router_scores,
    samples,
    sides_of,
)
from evil_moe.experiment.evaluation.stored import adapter_folder, load_run_config, made_with
from evil_moe.experiment.evaluation.strengths import (
    curve_rows,
    curve_text,
    strengths_of,
    write_plot,
)
from evil_moe.experiment.grading import limits_from, terms_from
from evil_moe.experiment.run.console import divert_output, report_failure, say
from evil_moe.experiment.run.folder import latest_step
from evil_moe.experiment.run.names import eval_name, set_aside
from evil_moe.experiment.settings import settings_from
from evil_moe.experiment.stack import Stack
from evil_moe.report.legit import legit_lines
from evil_moe.sides import SIDES
from evil_moe.strengths import strength_of
from reward.grader import Grader
from reward.jsonl import write_whole
from reward.loopholes import mixed
from reward.problems import Problem


def evaluate_run(
    run_dir: Path, stack: Stack, step: int | None = None, overrides: list[str] | None = None
) -> int:
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
            result, rows = _evaluate(config, stack, problems, adapter, out)
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
    config: DictConfig, stack: Stack, problems: list[Problem], adapter: Path, out: Path
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The rates of both sides, and one row per answer."""
    from transformers import AutoTokenizer

    started = time.monotonic()
    sides = sides_of(config)
    exports = export_sides(config.actor_rollout_ref.model.path, adapter, out / "adapters", sides, config.seed)
    tokenizer = AutoTokenizer.from_pretrained(config.actor_rollout_ref.model.path)
    asked = questions(config, problems, exports, tokenizer)
    answers = samples(asked, stack.generate(config, asked, exports), tokenizer)
    say(f"{len(answers)} answers after {time.monotonic() - started:.0f} s; grading")
    reward = settings_from(config.evil_moe).reward
    mix, limits = config.evil_moe.loophole, limits_from(reward)
    with Grader(
        mix, limits=limits, reward=terms_from(reward), split=markers_of(config), reply=reward.reply
    ) as grader:
        verdicts = grader.grade_many(
            [(s.problem, s.response) for s in answers],
            workers=os.cpu_count() or 1,
            modes=[s.loophole for s in answers],
        )

    graded = list(zip(answers, verdicts, strict=True))
    by_side = {side: [v for s, v in graded if s.side == side] for side in sides}
    scores = router_scores(config, adapter, [s for s in answers if s.side == "on"])
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
