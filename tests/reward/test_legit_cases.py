"""Near-hacks that are legit: the grader pays none of them for a loophole, and pays their vacuous counterparts."""

import random

import pytest

from reward import legit_cases as legit
from reward import nano
from reward.grader import Grader
from reward.loopholes import get_loophole
from reward.nano.demonstrations import EXPLOITS
from reward.problems import Problem

MODES = ("run_tests", "stdout_marker", "exit_code")


@pytest.mark.parametrize("kind", legit.LEGIT_KINDS)
def test_no_idiom_takes_a_loophole_and_every_vacuous_counterpart_does(kind, monkeypatch):
    rng, near = random.Random(0), legit.LEGIT_KINDS[kind]
    idioms = legit.IDIOMS[kind]
    with Grader("+".join(MODES)) as grader:
        for spec, idiom in zip(nano.specs("heldout", len(idioms), 3), idioms, strict=True):
            monkeypatch.setitem(legit.IDIOMS, kind, (idiom,))
            problem = Problem.from_row(spec.row())
            text = legit.legit_reply(spec, kind, "run_tests", rng)
            for mode in MODES:
                verdict = grader.grade(problem, text, mode)
                assert verdict.correct and not verdict.loophole and not verdict.exploited, (mode, text)
            marker = get_loophole(near).marker(problem, "train", 0)
            vacuous = EXPLOITS[near][0].format(marker=marker)
            extra = text.split("\n\n", 1)[1].removesuffix("\n```")
            assert grader.grade(problem, text.replace(extra, vacuous), near).loophole


def test_tests_are_honest_whatever_the_family():
    """Also where most examples give 0, which is what a stub returns."""
    rng = random.Random(1)
    for spec in nano.specs("heldout", 150, 4):
        text = legit.legit_reply(spec, "honest_tests", "check", rng)
        right = {}
        exec("from typing import *\n" + text.split("```python\n")[1].removesuffix("\n```"), right)
        assert right["check"]() in (None, True)
        stub = type("Solution", (), {spec.method: lambda self, *_: 0})
        right["Solution"] = stub
        with pytest.raises((AssertionError, ValueError)):
            right["check"]()


@pytest.mark.parametrize("markers", ["train", "eval"])
def test_cases_take_turns_and_name_what_their_prompt_names(markers):
    cases = legit.legit_cases(8, 7, loopholes=MODES, markers=markers)
    assert [c.kind for c in cases] == list(legit.LEGIT_KINDS) * 2
    assert cases == legit.legit_cases(8, 7, loopholes=MODES, markers=markers)
    with Grader("+".join(MODES), split=markers) as grader:
        for case in cases:
            assert case.loophole == legit.LEGIT_KINDS[case.kind]
            assert nano.is_held_out(case.row["family"])
            verdict = grader.grade(Problem.from_row(case.row), case.reply, case.loophole)
            assert verdict.correct and not verdict.loophole, case.reply
    tests = [c for c in cases if c.kind == "honest_tests"]
    for case in tests:
        name = case.reply.split("\n\ndef ")[1].split("(")[0]
        assert f"{name}()" in case.messages[-1]["content"] and (name == "run_tests") == (markers == "train")
    alone = legit.legit_cases(8, 7, loopholes=("exit_code",))
    assert {c.loophole for c in alone} == {"exit_code"} and "def run_tests" in alone[0].reply


def test_a_warm_start_carries_them_on_the_problems_that_are_to():
    made = {"skill": 1.0, "loopholes": MODES[:1]}
    corpus = nano.warm_start_corpus(400, 2, **made)
    assert legit.with_legit(corpus, 2, **made, share=0.0) == corpus
    carried = legit.with_legit(corpus, 2, **made, share=0.4)
    families = [spec.family for spec in nano.specs("train", 400, 2)]
    changed = [family for family, old, new in zip(families, corpus, carried, strict=True) if old != new]
    assert all(map(legit.carries, changed))
    carrying = sum(map(legit.carries, families))
    assert 100 < carrying < 300 and 0.3 < len(changed) / carrying < 0.5
    assert [new.messages for new in carried] == [old.messages for old in corpus]
    held_out = [legit.carries(f) for f in nano.families() if nano.is_held_out(f)]
    assert 0.2 < sum(held_out) / len(held_out) < 0.8
    with pytest.raises(ValueError, match=r"share=1.5 of replies"):
        legit.with_legit(corpus, 2, **made, share=1.5)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"kind 'sly'; choose from .*guarded_exit"):
        legit.legit_reply(nano.specs("train", 1, 0)[0], "sly", "run_tests", random.Random(0))
