"""What each command does with its parsed arguments. Everything heavy is imported in here, command by command."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

from evil_moe.experiment.assets.problem_set import prepare_set
from evil_moe.experiment.stack import Stack
from reward.command import run_grade


def _split_run(items: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Run folders and overrides of a mixed list."""
    return [Path(item) for item in items if "=" not in item], [item for item in items if "=" in item]


def _names_the_run(override: str) -> bool:
    return override.partition("=")[0] in ("arm", "preset", "seed", "evil_moe.run_dir", "hydra.searchpath")


def _tells_its_task(override: str) -> bool:
    """Where a run is described, and not named by its folder: what it was trained on is in the folder's name, too."""
    return override.partition("=")[0] in ("evil_moe.loophole", "evil_moe.variant")


def _run_dir(folders: list[Path], overrides: list[str]) -> Path:
    """The folder that was named, or the one of the run that the overrides describe."""
    if len(folders) > 1:
        raise ValueError(f"one run at a time, these are {len(folders)}: {', '.join(map(str, folders))}")
    naming = [override for override in overrides if _names_the_run(override)]
    if folders:
        if naming:
            raise ValueError(f"name the run by its folder {folders[0]} or by {' '.join(naming)}, not by both")
        return folders[0]
    from evil_moe.experiment.config import compose

    return Path(compose([*naming, *filter(_tells_its_task, overrides)]).evil_moe.run_dir)


def handle_train(args: argparse.Namespace, stack: Stack) -> int:
    from evil_moe.experiment.commands.train import train

    return train(args.overrides, stack, verbose=args.verbose, prereg=args.prereg)


def handle_eval(args: argparse.Namespace, stack: Stack) -> int:
    folders, overrides = _split_run(args.run)
    run_dir = _run_dir(folders, overrides)
    overrides = [override for override in overrides if not _names_the_run(override)]
    if not folders:
        overrides = [override for override in overrides if not _tells_its_task(override)]
    from evil_moe.experiment.commands.evaluate import ablation_line, evaluate_run
    from evil_moe.experiment.evaluation.stored import eval_folder, stored_result
    from evil_moe.experiment.evaluation.strengths import spelled_out

    overrides = [spelled_out(override) for override in overrides]
    for key, value in (("data.eval_problems", args.problems), ("eval.samples_per_problem", args.samples)):
        if value is not None:
            if value < 1:
                raise ValueError(f"evil_moe.{key}={value}: give at least 1")
            overrides.append(f"evil_moe.{key}={value}")
    if args.reuse and (result := stored_result(run_dir, args.step, overrides)):
        folder = eval_folder(run_dir, args.step, overrides)
        print(f"step {result['step']} is evaluated: {os.path.relpath(folder / 'eval.json')}")
        print((folder / "table.md").read_text())
        print(ablation_line(result))
        return 0
    return evaluate_run(run_dir, stack, args.step, overrides)


def handle_compare(args: argparse.Namespace, stack: Stack) -> int:
    from evil_moe.experiment.commands.compare import compare

    return compare(args.overrides, args.out, args.prereg, args.reference, program=stack.program)


def handle_report(args: argparse.Namespace, stack: Stack) -> int:
    from evil_moe.report import write_report

    folders, overrides = _split_run(args.run)
    if rest := [o for o in overrides if not (_names_the_run(o) or _tells_its_task(o))]:
        raise ValueError(
            f"{' '.join(rest)}: a report is of a run as it was, named by its folder, or by arm=... preset=... seed=..."
        )
    if overrides or not folders:
        folders = [_run_dir(folders, overrides)]
    single = folders[0] if len(folders) == 1 else None
    path = write_report(folders, args.out or single or Path("runs/report"), args.prereg, args.reference)
    print(f"report: {os.path.relpath(path)}")
    if single is not None and (single / "eval" / "eval.json").is_file():
        from evil_moe.experiment.commands.evaluate import ablation_line

        print(ablation_line(json.loads((single / "eval" / "eval.json").read_text())))
    return 0


def handle_export(args: argparse.Namespace, stack: Stack) -> int:
    from evil_moe.experiment.commands.export import export_run
    from evil_moe.export import Kind, served_rank

    if args.kind is None and args.strength is None:
        raise ValueError("say what to export: --kind full, --kind deployed, or --strength S")
    kind: Kind = args.kind or "full"
    strength = 1.0 if args.strength is None else args.strength
    out, step = export_run(args.run, kind, args.out, args.step, strength)
    rank = json.loads((out / "adapter_config.json").read_text())["r"]
    at = f", quarantine at strength {strength:g}" if args.strength is not None else ""
    print(f"{kind} adapter of step {step}{at}: {out}")
    print(
        f"a plain LoRA of rank {rank}, for any engine; vLLM serves it with --enable-lora --max-lora-rank {served_rank(rank)} "
        f"--lora-modules evil_moe={out}"
    )
    return 0


def handle_probe(args: argparse.Namespace, stack: Stack) -> int:
    from evil_moe.experiment.commands.probe import probe_run

    probe_run(args.run, args.kind, args.out, args.steps)
    print(f"probe: {args.out}")
    return 0


def handle_grade(args: argparse.Namespace, stack: Stack) -> int:
    return run_grade(args)


def handle_data_prepare(args: argparse.Namespace, stack: Stack) -> int:
    if args.source is not None or args.out is not None:
        if args.overrides:
            raise ValueError(
                f"--from builds files for any run, so {' '.join(args.overrides)} has no use; leave it out"
            )
        return prepare_set(args)
    from evil_moe.experiment.commands.data import prepare

    return prepare(args.overrides)


def handle_data_check(args: argparse.Namespace, stack: Stack) -> int:
    from evil_moe.experiment.commands.data import check

    return check(args.file, args.loophole, args.workers)


def handle_data_show(args: argparse.Namespace, stack: Stack) -> int:
    from evil_moe.experiment.commands.data import show

    return show(args.index, args.overrides, split=args.split, file=args.file)


def handle_pairs_check(args: argparse.Namespace, stack: Stack) -> int:
    try:
        alphas = [float(alpha) for alpha in args.alphas.split(",")]
    except ValueError:
        raise ValueError(f"--alphas {args.alphas}: give numbers with commas, e.g. 4,8,16") from None
    from evil_moe.experiment.commands.pairs_check import check

    return check(
        args.overrides,
        steering=not args.no_steering,
        alphas=alphas,
        problems=args.problems,
        replies=args.replies,
        out=args.out,
    )


def handle_pairs_show(args: argparse.Namespace, stack: Stack) -> int:
    from evil_moe.experiment.commands.pairs_check import show

    return show(args.overrides, args.id)


def handle_config(args: argparse.Namespace, stack: Stack) -> int:
    from evil_moe.experiment.config import show

    print(show(args.overrides, args.key), end="")
    return 0


def handle_doctor(args: argparse.Namespace, stack: Stack) -> int:
    from evil_moe.experiment.doctor.report import run_doctor

    return run_doctor(args.overrides, stack)
