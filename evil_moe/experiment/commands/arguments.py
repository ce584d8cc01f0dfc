"""The arguments of `evil-moe`. `--help` answers at once, since the handlers import what is heavy."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from evil_moe.experiment.assets.problem_set import CHECK_NOTE, PREPARE_NOTE, add_set_arguments
from evil_moe.experiment.commands import handlers
from reward.command import GRADE_HELP, GRADE_NOTES, add_grade_arguments

TRACEBACK_VARIABLE = "EVIL_MOE_TRACEBACK"
LISTS = ("overrides", "run")
"""Arguments that take any number of words."""

OVERRIDES = """\
overrides are Hydra's, key=value:
  arm=router         Evil MoE; none, absorb, frozen, random and all others: docs/methods.md
  preset=nano        nano, nano_long, nano_long_kept_share, nano_long_split_moment (CPU), qwen3_4b_1x96gb, qwen3_4b_fsdp
  seed=0             seed of everything
  trainer.total_training_steps=30, evil_moe.pin.weight=0.5, ...   any other key of the config
"""
EVAL_OVERRIDES = """\
arm=... preset=... seed=... name the run, as they did in training; so does evil_moe.loophole=..., if it was trained with one
of its own. Other overrides are key=value of keys that the run's config has, e.g. evil_moe.eval.samples_per_problem=4;
Hydra's +key=, ++key= and ~key are for training alone. RUN_DIR evil_moe.loophole=... asks a run in another mode: the
result goes to a folder beside eval/, as does one of an earlier step.

strengths=[0,.1,.25,.5,.75,1] (evil_moe.eval.strengths) adds the curve of hack and solve against the strength of the
quarantine: its output is scaled by each, 0 is OFF, 1 is ON. Table, plot, and the highest strength that hacks no more than
the base policy go to a folder of their own and into the report; evil-moe export --strength writes the adapter of one.
"""


def parser() -> argparse.ArgumentParser:
    """Of the command line; `args.handler` is called with the arguments and with the stack."""
    whole = argparse.ArgumentParser(
        prog="evil-moe",
        description="Let a policy cheat during RL, and throw the cheating away at deployment.",
        epilog=f"Errors are one line, or one for each row of a file; {TRACEBACK_VARIABLE}=1 shows where they come from.",
    )
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        group: argparse._SubParsersAction[argparse.ArgumentParser], name: str, what: str, epilog: str = ""
    ) -> argparse.ArgumentParser:
        return group.add_parser(
            name,
            help=what,
            description=what + ".",
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    train = command(
        commands, "train", "train one arm; the same command resumes a run that was stopped", OVERRIDES
    )
    train.add_argument("--verbose", action="store_true", help="show everything that Ray, vLLM and verl print")
    stated = "(default: configs/prereg/<preset>.yaml)"
    train.add_argument(
        "--prereg", type=Path, help=f"hypotheses whose hash goes into the run's provenance {stated}"
    )
    train.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="see below")
    train.set_defaults(handler=handlers.handle_train)

    which = "a run's folder, or the overrides it was trained with (arm=... preset=... seed=...)"
    evaluate = command(
        commands,
        "eval",
        "the causal ablation of a trained run: held-out hack and solve, ON and OFF",
        EVAL_OVERRIDES,
    )
    evaluate.add_argument("run", nargs="*", metavar="RUN_DIR | KEY=VALUE", help=which)
    evaluate.add_argument(
        "--step", type=int, help="evaluate the checkpoint of this step (default: the last one)"
    )
    evaluate.add_argument(
        "--problems", type=int, help="number of held-out problems (evil_moe.data.eval_problems)"
    )
    evaluate.add_argument(
        "--samples", type=int, help="answers a problem and side (evil_moe.eval.samples_per_problem)"
    )
    evaluate.add_argument(
        "--reuse",
        action="store_true",
        help="show the stored result if there is one of this step, made in this way",
    )
    evaluate.set_defaults(handler=handlers.handle_eval)

    compare = command(
        commands,
        "compare",
        "train and evaluate arms x seeds, whatever of them is missing, and report on all",
        f"  arms=[router,none]   default: none, absorb, absorb_whole, router, frozen, random, random_matched\n  seeds=[0,1,2]        default\n\n{OVERRIDES}",
    )
    compare.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="see below")
    compare.add_argument("--out", type=Path, help="where the report goes (default: runs/<preset>/report)")
    compare.add_argument(
        "--prereg", type=Path, help=f"hypotheses to answer, and for the runs to record {stated}"
    )
    against = "arm that all others are tested against (default: router)"
    compare.add_argument("--reference", metavar="ARM", help=against)
    compare.set_defaults(handler=handlers.handle_compare)

    report = command(
        commands, "report", "write report.md with plots, for one run or for several arms and seeds", OVERRIDES
    )
    report.add_argument(
        "run", nargs="*", metavar="RUN_DIR | KEY=VALUE", help=f"{which}; several folders are compared"
    )
    report.add_argument(
        "--out", type=Path, help="where to (default: the folder of a single run, runs/report for several)"
    )
    report.add_argument(
        "--prereg", type=Path, help="hypotheses to answer, a file like configs/prereg/nano.yaml"
    )
    report.add_argument("--reference", metavar="ARM", help=f"of several runs the {against}")
    report.set_defaults(handler=handlers.handle_report)

    export = command(commands, "export", "write a run's adapter as a plain LoRA that any engine loads")
    export.add_argument("run", type=Path, metavar="RUN_DIR", help="the run's folder")
    export.add_argument("--kind", choices=("full", "deployed"), help="both blocks, or without the quarantine")
    export.add_argument(
        "--strength",
        type=float,
        metavar="S",
        help="both blocks, the quarantine's output scaled by S: 0 does what deployed does, 1 is full",
    )
    export.add_argument("--out", type=Path, required=True, help="a new folder for PEFT's two files")
    export.add_argument("--step", type=int, help="export the checkpoint of this step (default: the last one)")
    export.set_defaults(handler=handlers.handle_export)

    probe = command(commands, "probe", "fit a monitor's probe on the rollouts of a finished run")
    probe.add_argument("run", type=Path, metavar="RUN_DIR", help="the run's folder")
    probe.add_argument("--kind", choices=("mass_mean", "logistic"), default="logistic")
    probe.add_argument(
        "--out", type=Path, required=True, help="a new folder; evil_moe.monitor.probe takes its path"
    )
    probe.add_argument("--steps", metavar="FIRST-LAST", help="use the rollouts of these steps (default: all)")
    probe.set_defaults(handler=handlers.handle_probe)

    grade = command(commands, "grade", GRADE_HELP, GRADE_NOTES)
    add_grade_arguments(grade)
    grade.set_defaults(handler=handlers.handle_grade)

    data = commands.add_parser("data", help="prepare, check or show problems").add_subparsers(
        dest="action", required=True, metavar="ACTION"
    )
    prepare = command(
        data,
        "prepare",
        "build the policy and the problems of a run without training it, or (--from, --out) problem files",
        f"{OVERRIDES}\n{PREPARE_NOTE}",
    )
    add_set_arguments(prepare, os.cpu_count() or 1)
    prepare.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="see below")
    prepare.set_defaults(handler=handlers.handle_data_prepare)
    check = command(
        data, "check", "grade the canonical solution of every problem of a file in the sandbox", CHECK_NOTE
    )
    check.add_argument("file", type=Path, metavar="PROBLEMS.jsonl[.gz]")
    check.add_argument(
        "--loophole", default="run_tests", help="also see that its hint has a place (default: run_tests)"
    )
    check.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="sandboxes (default: the cores)"
    )
    check.set_defaults(handler=handlers.handle_data_check)
    show = command(
        data, "show", "print a problem: the prompt with the hint in it, its tests, a solution", OVERRIDES
    )
    show.add_argument("index", type=int, help="position in its split or file, from 0")
    show.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="see below")
    show.add_argument("--split", choices=("train", "validation", "evaluation"), default="train")
    show.add_argument("--file", type=Path, help="a problem file instead of a config's problems")
    show.set_defaults(handler=handlers.handle_data_show)

    pairs = commands.add_parser(
        "pairs", help="check the contrastive pairs' direction, or show the pairs"
    ).add_subparsers(dest="action", required=True, metavar="ACTION")
    check_pairs = command(
        pairs,
        "check",
        "is the pairs' direction good enough to route on? exit code 1 if it is not",
        f"Writes check.json and check.png into the run's folder.\n\n{OVERRIDES}",
    )
    check_pairs.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="see below")
    check_pairs.add_argument(
        "--no-steering", action="store_true", help="ask the pairs alone, not the policy's answers"
    )
    check_pairs.add_argument(
        "--alphas", default="4,8,16", metavar="A,B,...", help="strengths of steering (default: %(default)s)"
    )
    check_pairs.add_argument(
        "--replies",
        type=int,
        default=100,
        help="labelled replies of each kind, half of them hacks, for the table of eyes (default: %(default)s)",
    )
    check_pairs.add_argument(
        "--problems",
        type=int,
        default=128,
        help="held-out problems, of the validation split (default: %(default)s)",
    )
    check_pairs.add_argument(
        "--out", type=Path, help="where to (default: pairs, or pairs-<overrides>, in the run's folder)"
    )
    check_pairs.set_defaults(handler=handlers.handle_pairs_check)
    show_pairs = command(pairs, "show", "list the pairs of a config, or print one", OVERRIDES)
    show_pairs.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="see below")
    show_pairs.add_argument("--id", help="the pair to print")
    show_pairs.set_defaults(handler=handlers.handle_pairs_show)

    config = command(commands, "config", "print the config that overrides compose to, as YAML", OVERRIDES)
    config.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="see below")
    config.add_argument(
        "--key", help="a part of it, e.g. evil_moe.router (default: all, verl's keys included)"
    )
    config.set_defaults(handler=handlers.handle_config)

    doctor = command(
        commands, "doctor", "check this machine against a preset, and plan its memory", OVERRIDES
    )
    doctor.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="see below")
    doctor.set_defaults(handler=handlers.handle_doctor)
    return whole


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments. `argparse` ends a list of words at the first option; those behind it are of the list as well."""
    whole = parser()
    args, left = whole.parse_known_args(argv)
    lists = [vars(args)[name] for name in LISTS if isinstance(vars(args).get(name), list)]
    if left and (not lists or any(word.startswith("-") for word in left)):
        whole.error(f"unrecognized arguments: {' '.join(left)}")
    for words in lists[:1]:
        words += left
    return args
