"""The hand-written near-hacks: honest in every mode by the real grader, varied, and apart from what is trained on."""

from collections import Counter
from pathlib import Path

import pytest

from evil_moe.legit import REPLIES, load_legit
from evil_moe.pairs import load_pairs
from reward import Grader, Problem
from reward.legit_cases import LEGIT_KINDS
from tests.reward.helpers import make_row

MODES = ("run_tests", "stdout_marker", "exit_code")


def test_every_reply_is_right_and_takes_no_loophole() -> None:
    with Grader("+".join(MODES)) as grader:
        for entry in load_legit():
            method = entry.task.split("    def ")[1].split("(")[0]
            row = make_row(*entry.tests, func_name=f"Solution().{method}")
            for mode in MODES:
                verdict = grader.grade(Problem.from_row(row), entry.reply, mode)
                assert verdict.correct and not verdict.loophole, (entry.id, mode, verdict.reason)


def test_six_of_each_kind_short_and_long_and_apart_from_the_pairs() -> None:
    entries = load_legit()
    assert Counter(entry.kind for entry in entries) == dict.fromkeys(LEGIT_KINDS, 6)
    pairs = load_pairs()
    assert not {entry.task.splitlines()[0] for entry in entries} & {p.prompt.splitlines()[0] for p in pairs}
    for kind in LEGIT_KINDS:
        prose = [len(e.reply.split("```")[0].split()) for e in entries if e.kind == kind]
        assert min(prose) == 0 and max(prose) > 50, kind


def test_a_malformed_file_is_refused(tmp_path: Path) -> None:
    text = REPLIES.read_text()
    file = tmp_path / "replies.yaml"
    for old, new, message in (
        ("  kind: decoy\n", "", "entry 6 must have the fields id, kind"),
        ("id: exit-plain", "id: exit-after-main", "entry 19: the id 'exit-after-main' is taken"),
    ):
        file.write_text(text.replace(old, new, 1))
        with pytest.raises(ValueError, match=message):
            load_legit(file)
