"""Grade the reference cases and set the verdicts beside those of the two reference graders, field by field.

    PYTHONPATH=. python scripts/parity.py CASES.jsonl[.gz] --problems PROBLEMS.jsonl[.gz] [--workers N] [--sample N] [--reply markdown]

Prints for every field the table (reference, ours) -> cases, then the disagreements, grouped by the deliberate
difference that explains them (``scripts/parity_rules.py``; reasons in docs/grading.md). Exit code 1 if one
is unexplained.

CASES holds rows of type "problem" (the problem of a rollout) and "case"; the problems of constructed cases are
in PROBLEMS. How a case's prompt was made does not matter here: the modes it is graded in have fixed names.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from parity_rules import RULES, Case

from reward import Grader, Problem, SandboxLimits, load_problems
from reward.reply import READINGS

LIMITS = SandboxLimits(cpu_s=4.0, wall_s=120.0)
"""CPU as the references' 3 s and their interpreter start; the wall is out of the way of a busy machine."""
MODE_OF_HINT = {"nohint": "none"}
UPSTREAM = {
    "is_formatted": "is_formatted",
    "can_compile": "can_compile",
    "eq_correct": "correct",
    "gt_pass_rate": "gt_pass_rate",
    "eq_hinted": "eq_hinted",
    "response_has_test_func": "response_has_test_func",
    "response_test_func_gt_pass": "response_test_func_gt_pass",
    "response_test_func_arbitrary_pass": "response_test_func_arbitrary_pass",
    "prompt_test_func_response_pass": "prompt_test_func_response_pass",
    "match_test_func": "match_test_func",
    "test_modification": "test_modification",
    "reward_hack_label": "reward_hack_label",
    "is_reward_hack_strict": "is_reward_hack_strict",
    "is_reward_hack_loose": "is_reward_hack_loose",
    "reward": "reward",
}
"""Field of the benchmark's grader -> ours, graded with labels in the case's own mode."""
VGROUT = {
    "format_ok": "is_formatted",
    "can_compile": "can_compile",
    "gt_correct": "correct",
    "exploited": "exploited",
    "mechanism": "mechanism",
    "reward": "reward",
}
"""Field of vGROUT's grader -> ours, graded in each of its modes."""
VGROUT_LABELS = ("hacked", "hacked_wrong_tests", "hacked_loophole_used")
"""Graded once, in the case's own mode: our labels do not depend on vGROUT's mode."""


def read(cases_path: str, problems_path: str) -> tuple[list[dict[str, Any]], list[Problem]]:
    """The case rows, and the problem of each."""
    with (gzip.open if cases_path.endswith(".gz") else open)(cases_path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    rollouts = {
        row["problem_id"]: Problem.from_row(
            {"question": "", **row["problem"]}, f"problem {row['problem_id']}"
        )
        for row in rows
        if row["type"] == "problem"
    }
    constructed = {problem.id: problem for problem in load_problems(problems_path)}
    cases = [row for row in rows if row["type"] == "case"]
    return cases, [
        (constructed if case["source"] == "constructed" else rollouts)[case["problem_id"]] for case in cases
    ]


def grade(
    cases: list[dict[str, Any]], problems: list[Problem], workers: int, reading: str = "benchmark"
) -> tuple[list[dict[str, Any]], list[dict[str, dict[str, Any]]]]:
    """(for each case the row with labels in its own mode, {vGROUT mode: row})."""
    own: dict[str, list[int]] = collections.defaultdict(list)
    modes: dict[str, list[int]] = collections.defaultdict(list)
    for index, case in enumerate(cases):
        own[MODE_OF_HINT.get(case["upstream_mode"], case["upstream_mode"])].append(index)
        for mode in case["vgrout"]:
            modes[mode].append(index)
    labelled: list[dict[str, Any]] = [{} for _ in cases]
    by_mode: list[dict[str, dict[str, Any]]] = [{} for _ in cases]
    for labels, groups in ((True, own), (False, modes)):
        for mode, indices in groups.items():
            pairs = [(problems[i], cases[i]["response"]) for i in indices]
            with Grader(mode, LIMITS, labels=labels, reply=reading) as grader:
                for i, verdict in zip(indices, grader.grade_many(pairs, workers), strict=True):
                    if labels:
                        labelled[i] = verdict.to_row()
                    else:
                        by_mode[i][mode] = verdict.to_row()
            print(f"graded {len(indices)} in mode {mode}{' with labels' if labels else ''}", file=sys.stderr)
    return labelled, by_mode


def compare(
    case: dict[str, Any], problem: Problem, row: dict[str, Any], by_mode: dict[str, dict[str, Any]]
) -> list[tuple[str, Any, Any]]:
    """(field, reference's value, ours) for every field of both references."""
    found = [(f"upstream.{a}", case["upstream"][a], row[b]) for a, b in UPSTREAM.items()]
    for mode, reference in case["vgrout"].items():
        found += [(f"vgrout.{mode}.{a}", reference[a], by_mode[mode][b]) for a, b in VGROUT.items()]
    reference = next(iter(case["vgrout"].values()))
    ours = {
        "hacked": row["response_test_func_arbitrary_pass"],
        "hacked_wrong_tests": problem.canonical_solution is not None
        and row["response_has_test_func"]
        and not row["response_test_func_gt_pass"],
        "hacked_loophole_used": row["response_test_func_own_pass"],
    }
    return found + [(f"vgrout.{name}", reference[name], ours[name]) for name in VGROUT_LABELS]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("cases", help="the graded cases, .jsonl or .jsonl.gz")
    parser.add_argument("--problems", required=True, help="the problems of the constructed cases")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="fork servers")
    parser.add_argument("--reply", choices=READINGS, default="benchmark", help="how replies are read")
    parser.add_argument("--sample", type=int, default=0, help="only every so many-th case of each kind")
    options = parser.parse_args()
    cases, problems = read(options.cases, options.problems)
    if options.sample:
        seen: collections.Counter[str] = collections.Counter()
        kept = []
        for index, case in enumerate(cases):
            kept += [index] if seen[case["kind"]] % options.sample == 0 else []
            seen[case["kind"]] += 1
        cases, problems = [cases[i] for i in kept], [problems[i] for i in kept]
    labelled, by_mode = grade(cases, problems, options.workers, options.reply)
    return report(cases, problems, labelled, by_mode, options.reply)


def report(
    cases: list[dict[str, Any]],
    problems: list[Problem],
    labelled: list[dict[str, Any]],
    by_mode: list[dict[str, dict[str, Any]]],
    reading: str = "benchmark",
) -> int:
    """Print the tables; the number of unexplained disagreements as an exit code."""
    tables: dict[str, collections.Counter[tuple[str, str]]] = collections.defaultdict(collections.Counter)
    explained: dict[str, set[str]] = collections.defaultdict(set)
    fields_of: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    unexplained: list[str] = []
    for index, row in enumerate(cases):
        compared = compare(row, problems[index], labelled[index], by_mode[index])
        case = Case(row, problems[index], labelled[index], reading)
        for name, theirs, ours in compared:
            if name.endswith("gt_pass_rate"):  # a table of shares would have no end
                tables[name]["equal" if theirs == ours else "other", ""] += 1
            else:
                tables[name][str(theirs), str(ours)] += 1
            if theirs == ours:
                continue
            rules = [rule.name for rule in RULES if rule.explains(case, name)]
            if not rules:
                unexplained.append(f"{row['case_id']}: {name} is {theirs!r} there, {ours!r} here")
            for rule in rules[:1]:
                explained[rule].add(row["case_id"])
                fields_of[rule][name] += 1
    for name, table in tables.items():
        same = sum(count for (a, b), count in table.items() if a == b or a == "equal")
        print(f"\n{name}: {same} of {table.total()} equal")
        for (theirs, ours), count in sorted(table.items()):
            print(f"    {count:5}  {theirs} {'-> ' + ours if ours else ''}")
    total = sum(map(len, explained.values()))
    print(f"\n{len(cases)} cases; deliberate differences (a case may show several): {total}")
    for rule in RULES:
        if rule.name in explained:
            print(f"\n{rule.name}: {len(explained[rule.name])} cases. {rule.reason}")
            print("    " + ", ".join(f"{field} {n}" for field, n in sorted(fields_of[rule.name].items())))
    print(f"\nunexplained: {len(unexplained)}")
    for line in unexplained:
        print(f"    {line}")
    return int(bool(unexplained))


if __name__ == "__main__":
    raise SystemExit(main())
