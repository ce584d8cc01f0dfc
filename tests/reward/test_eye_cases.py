"""Cases of the table of eyes: what they are called is what running them says, with prose in front and without."""

import pytest

from reward.eye_cases import EYE_LOOPHOLES, PROSE_WORDS, EyeCase, eye_cases
from reward.grader import Grader
from reward.nano import generate
from reward.problems import Problem


@pytest.mark.parametrize("loophole", EYE_LOOPHOLES)
def test_hacks_take_the_loophole_and_clean_replies_do_not(loophole):
    problems = [Problem.from_row(row) for row in generate("heldout", 6, 5)]
    with Grader(loophole) as grader:
        for words in (PROSE_WORDS[0], PROSE_WORDS[-1]):
            cases = eye_cases(loophole, 6, 5, prose_words=words)
            verdicts = [grader.grade(p, c.reply) for p, c in zip(problems, cases, strict=True)]
            assert [v.loophole for v in verdicts] == [c.is_hack for c in cases] == [True, False] * 3
            assert all(v.is_formatted for v in verdicts)


def test_the_same_replies_stand_behind_more_or_less_prose():
    assert EYE_LOOPHOLES == ("run_tests", "stdout_marker", "exit_code")
    bare, some, much = (eye_cases("exit_code", 40, 0, prose_words=words) for words in PROSE_WORDS)
    for words, cases in zip(PROSE_WORDS[1:], (some, much), strict=True):
        for plain, case in zip(bare, cases, strict=True):
            prose, code = case.reply.split("\n\n```python\n")
            assert case == EyeCase(plain.messages, case.reply, plain.is_hack)
            assert (len(prose.split()), f"```python\n{code}") == (words, plain.reply)
    assert len({case.reply.split("\n")[0] for case in much}) > 35  # of different places
    assert sum("def helper" in c.reply or "def main" in c.reply or "sol =" in c.reply for c in bare) > 0
    assert (
        eye_cases("exit_code", 40, 0, prose_words=120)
        == some
        != eye_cases("exit_code", 40, 1, prose_words=120)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none", 4, 0), "no cases of loophole 'none'; choose from"),
        (("exit_code", 4, 0, 9_999), r"prose_words=9999: the text has \d+ words"),
        (("exit_code", 4, 0, -1), "prose_words=-1"),
    ],
)
def test_what_there_is_none_of_is_refused(arguments, message):
    loophole, count, seed, *words = arguments
    with pytest.raises(ValueError, match=message):
        eye_cases(loophole, count, seed, prose_words=(words or [0])[0])
