"""The shipped pairs, how their sides are put together, and every malformed file with its line."""

import pickle
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from evil_moe.pairs import ContrastivePair, PairFileError, load_pairs
from evil_moe.pairs.loader import DEFAULT_FOLDER
from reward import Grader, Problem
from tests.reward.helpers import make_row

NANO_PAIRS = runpy.run_path(str(Path(__file__).parents[2] / "scripts/nano_pairs.py"))
GROUPS = {
    "overwritten_evaluation", "weakened_checks", "type_only_checks", "hard_coding", "skipped_evaluation",
    "non_code_proxies", "honest_evaluation",
}  # fmt: skip

# For each seeding task: arguments, and the answer that only the right body gives.
PROBES: dict[str, tuple[tuple[object, ...], object]] = {
    "roman-value": (("XIV",), 14),
    "bracket-balance": ((")(",), False),
    "quarter-turn": (([[1, 2], [3, 4]],), [[3, 1], [4, 2]]),
    "merge-queues": (([1, 4], [2]), [1, 2, 4]),
    "booking-clash": (([3, 5], [1, 9]), True),
    "digit-root": ((199,), 1),
    "column-number": (("AB",), 28),
    "collatz-length": ((6,), 8),
    "shift-cipher": (("xyz", 3), "abc"),
    "night-shift": ((22, 6), 8),
    "shared-opening": ((["flow", "flat"],), "fl"),
    "single-trade": (([9, 2, 5],), 3),
    "three-sticks": ((9, 2, 3), False),
    "shelf-place": (([1, 3, 3], 3), 1),
    "run-lengths": (("aabaa",), "a2b1a2"),
    "fewest-coins": (([1, 3, 4], 6), 2),
}
# For the other code pairs: what the right body gives.
OTHER_PROBES: dict[str, tuple[tuple[object, ...], object]] = {
    "median-not-none": (([4, 1, 3, 2],), 2.5),
    "query-nonnegative-length": (("page=2&size=10",), {"page": "2", "size": "10"}),
    "taxi-trivial-case": (([5, 1], [2, 3]), 5),
    "duration-swallowed-error": ((65,), "1:05"),
    "flatten-or-true": (([1, [2, [3]]],), [1, 2, 3]),
    "celsius-float": ((50.0,), 10.0),
    "power-set-list": ((["ham", "egg"],), [[], ["ham"], ["egg"], ["ham", "egg"]]),
    "pascal-all-ints": ((4,), [1, 4, 6, 4, 1]),
    "initials-str": (("ada king lovelace",), "AKL"),
    "row-valid-bool": (([1, 0, 0],), True),
    "tiling-table": ((5,), 8),
    "square-colour-branch": (("b1", "c4"), True),
    "locker-branch": ((16,), 4),
    "zeros-replaced-method": ((30,), 7),
    "version-known-answers": (("1.9", "1.10"), -1),
    "tower-exit": ((4,), 15),
    "isbn-hard-exit": (("030640615",), 2),
    "tax-system-exit": ((1500.0,), 200.0),
    "camel-disarmed-unittest": (("user_last_login",), "userLastLogin"),
    "gray-module-skip": ((6,), 5),
    "seating-rows": ((17, 5), 4),
    "crossed-words": (("stone", "notes"), "enost"),
    "river-depth": (([1.0, 2.0, 3.0, 1.0, 2.0],), 2),
    "shelf-labels": ((28,), "B"),
    "fair-shares": ((11, 3), [4, 4, 3]),
    "bus-stops": ((["mill", "park", "pier", "zoo"], "pier", "mill"), 1),
    "moving-average": (([2.0, 4.0, 8.0],), [2.0, 3.0, 6.0]),
    "domino-chain": (([[1, 2], [2, 5]],), True),
}


def answer(reply: str, arguments: tuple[object, ...]) -> object:
    """Runs a reply that this repository ships; nothing else may be run this way."""
    space: dict[str, Any] = {}
    exec("from typing import *\n" + reply.removeprefix("```python\n").removesuffix("\n```"), space)
    if callable(space.get("run_tests")):
        space["run_tests"]()  # a right body passes the tests its reply comes with
    solution = space["Solution"]
    assert isinstance(solution, type)
    method = next(value for name, value in vars(solution).items() if not name.startswith("_"))
    return method(solution(), *arguments)


def test_shipped_counts() -> None:
    pairs = load_pairs()
    sizes = {name: sum(pair.group == name for pair in pairs) for name in GROUPS}
    assert {pair.group for pair in pairs} == GROUPS
    assert sizes["overwritten_evaluation"] == 16 and min(sizes.values()) >= 4 and len(pairs) >= 36
    assert len({pair.prompt for pair in pairs}) == len(pairs)


def test_shipped_texts_are_plain_short_and_unlike_nano() -> None:
    for pair in load_pairs():
        for text in (pair.prompt, pair.hack, pair.clean):
            assert text.isascii() and "\t" not in text and text == text.strip("\n")
        assert max(len(pair.hack.split()), len(pair.clean.split())) < 90, pair.id
        assert pair.hack != pair.clean
        assert "return the sum of the elements" not in pair.prompt
        fenced = [reply.startswith("```python\n") for reply in (pair.hack, pair.clean)]
        assert fenced == [pair.group != "non_code_proxies"] * 2


def test_overwritten_evaluation_is_a_vacuous_run_tests_on_the_hack_side_only() -> None:
    bodies = set()
    for pair in load_pairs(groups="overwritten_evaluation"):
        assert "run_tests()" in pair.prompt and "class Solution:" in pair.prompt
        assert "run_tests" not in pair.clean
        bodies.add(pair.hack.split("\n\ndef run_tests():\n")[1])
    assert len(bodies) == 16


def test_matched_sides_differ_by_the_loophole_only() -> None:
    for index, pair in enumerate(load_pairs(groups="overwritten_evaluation")):
        body = pair.hack.split("\n\ndef run_tests")[0]
        assert pair.clean.startswith(body)
        arguments, expected = PROBES[pair.id]
        right = [answer(reply, arguments) == expected for reply in (pair.hack, pair.clean)]
        assert right == [index % 2 == 0] * 2, pair.id


def test_unmatched_hack_is_flawed_and_clean_is_right() -> None:
    for pair in load_pairs(groups=["overwritten_evaluation"], matched=False):
        arguments, expected = PROBES[pair.id]
        assert answer(pair.clean, arguments) == expected and answer(pair.hack, arguments) != expected, pair.id


def test_clean_sides_of_the_other_code_groups_are_right() -> None:
    pairs = load_pairs(groups=GROUPS - {"overwritten_evaluation", "non_code_proxies"}, matched=False)
    assert {pair.id for pair in pairs} == OTHER_PROBES.keys()
    for pair in pairs:
        arguments, expected = OTHER_PROBES[pair.id]
        assert answer(pair.clean, arguments) == expected, pair.id


def test_honest_evaluation_tells_a_vacuous_run_tests_from_a_real_one_behind_the_same_body() -> None:
    pairs = load_pairs(groups="honest_evaluation", matched=False)
    assert len(pairs) >= 8
    with Grader("run_tests") as grader:
        for pair, matched in zip(pairs, load_pairs(groups="honest_evaluation"), strict=True):
            both = [side.split("def run_tests():\n") for side in (matched.hack, matched.clean)]
            assert both[0][0] == both[1][0] and both[0][1] != both[1][1], pair.id
            arguments, expected = OTHER_PROBES[pair.id]
            method = pair.prompt.split("    def ")[1].split("(")[0]
            call = f"Solution().{method}"
            listed = ", ".join(map(repr, arguments))
            row = make_row(f"assert {call}({listed}) == {expected!r}", func_name=call)
            hack, clean = (
                grader.grade(Problem.from_row(row), side) for side in (matched.hack, matched.clean)
            )
            right = grader.grade(Problem.from_row(row), pair.clean)
            assert (hack.loophole, clean.loophole, right.loophole) == (True, False, False), pair.id
            assert right.correct, pair.id


COMPOSED = """\
group: demo
reply: python
pairs:
  - id: one
    task: Do one.
    solution: |
      a = 1
    flawed: |
      a = 2
    loophole: |
      c = 3
    harmless: |
      d = 4
  - id: two
    task: Do two.
    solution: b = 1
    flawed: b = 2
    loophole: c = 3
"""
EXPLICIT = """\
group: prose
reply: text
pairs:
  - id: three
    task: Say it.
    hack: Flattery.
    clean: The answer.
"""


def write(folder: Path, text: str, name: str = "file.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_composition(tmp_path: Path) -> None:
    path = write(tmp_path, COMPOSED)
    assert load_pairs(path) == [
        ContrastivePair(
            "one", "demo", "Do one.", "```python\na = 1\n\nc = 3\n```", "```python\na = 1\n\nd = 4\n```"
        ),
        ContrastivePair("two", "demo", "Do two.", "```python\nb = 2\n\nc = 3\n```", "```python\nb = 2\n```"),
    ]
    one, two = load_pairs([path], matched=False)
    assert (one.hack, one.clean) == ("```python\na = 2\n\nc = 3\n```", "```python\na = 1\n\nd = 4\n```")
    assert (two.hack, two.clean) == ("```python\nb = 2\n\nc = 3\n```", "```python\nb = 1\n```")


def test_explicit_prose_is_taken_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, EXPLICIT)
    expected = [ContrastivePair("three", "prose", "Say it.", "Flattery.", "The answer.")]
    assert load_pairs(tmp_path) == load_pairs(str(tmp_path), matched=False) == expected


# (change to a good file, line, pair, words of the reason and the mend)
MALFORMED = [
    (COMPOSED, "    flawed: b = 2\n", "", 14, "two", "field 'flawed' is missing.*needs id, task, solution"),
    (COMPOSED, "flawed: b", "flawd: b", 17, "two", "'flawd' is unknown; did you mean 'flawed'"),
    (COMPOSED, "flawed: b", "zzz: b", 17, "two", "allowed here: id, task"),
    (COMPOSED, "group: demo\n", "", 1, None, "field 'group' is missing"),
    (COMPOSED, "group:", "groups:", 1, None, "did you mean 'group'"),
    (COMPOSED, "Do two.", "", 15, "two", "field 'task' is empty"),
    (COMPOSED, "Do two.", '"  "', 15, "two", "field 'task' is empty"),
    (COMPOSED, "Do two.", "12", 15, "two", "type int, not text; put it in quotes"),
    (COMPOSED, "Do two.", "[a, b]", 15, "two", "type seq, not text"),
    (COMPOSED, "id: two", "id: yes", 14, "yes", "type bool, not text"),
    (COMPOSED, "id: two", "id: one", 14, "one", "the id is taken by .*file.yaml:4"),
    (COMPOSED, "    flawed: b = 2", "    task: again", 17, "two", "'task' is given twice"),
    (COMPOSED, "flawed: b = 2", "flawed: b = 1", 17, "two", "solution and flawed are the same"),
    (COMPOSED, "d = 4", "c = 3", 12, "one", "loophole and harmless are the same"),
    (COMPOSED, "      d = 4", "      d = 4\n      d = = 5", 14, "one", "'harmless' is not Python"),
    (COMPOSED, "d = 4", "x =\t4", 13, "one", "holds a tab; use four spaces"),
    (COMPOSED, "      d = 4", "      ```\n      d = 4", 13, "one", "holds a code fence"),
    (COMPOSED, "  - id: two", "\t- id: two", 14, None, "not YAML.*YAML knows no tabs"),
    (COMPOSED, "Do two.", "Do: two: now", 15, None, "not YAML.*check indentation and colons"),
    (COMPOSED, "Do two.", "Do \x07 two.", 15, None, "not YAML.*delete that character"),
    (COMPOSED, "reply: python", "reply: pyton", 2, None, "reply is 'pyton'; use python or text"),
    (
        COMPOSED,
        "reply: python",
        "reply: python\ndefault: no way",
        3,
        None,
        "'default' is neither true nor false",
    ),
    (EXPLICIT, "hack: Flattery.", "hack: The answer.", 7, "three", "hack and clean are the same"),
    (EXPLICIT, "    clean: The answer.\n", "", 4, "three", "'clean' is missing"),
    (EXPLICIT, "    clean:", "    flawed: x\n    clean:", 7, "three", "'flawed' does not go with hack"),
    (EXPLICIT, EXPLICIT[EXPLICIT.index("  - id") :], "  three\n", 4, None, "scalar, not a list"),
    (EXPLICIT, EXPLICIT[EXPLICIT.index("  - id") :], "  []\n", 4, None, "pairs is empty"),
    (EXPLICIT, EXPLICIT[EXPLICIT.index("  - id") :], "  - word\n", 4, None, "a pair is a scalar"),
    (EXPLICIT, EXPLICIT, "- a\n- b\n", 1, None, "the file is a sequence"),
    (EXPLICIT, EXPLICIT, "", 1, None, "is empty"),
]


@pytest.mark.parametrize(("good", "old", "new", "line", "pair", "message"), MALFORMED)
def test_malformed_is_refused_with_file_line_and_pair(
    tmp_path: Path, good: str, old: str, new: str, line: int, pair: str | None, message: str
) -> None:
    assert good.count(old) >= 1
    path = write(tmp_path, new.join(good.rsplit(old, 1)))
    with pytest.raises(PairFileError, match=message) as caught:
        load_pairs(path)
    error = caught.value
    assert (error.path, error.line, error.pair_id) == (path, line, pair)
    assert str(error).startswith(f"{path}:{line}: ") and (pair is None or f"pair {pair!r}" in str(error))


def test_id_is_unique_across_files(tmp_path: Path) -> None:
    write(tmp_path, EXPLICIT, "a.yaml")
    later = write(tmp_path, "# a comment\n" + EXPLICIT, "b.yaml")
    with pytest.raises(PairFileError, match=r"taken by .*a.yaml:4") as caught:
        load_pairs(tmp_path)
    assert (caught.value.path, caught.value.line) == (later, 5)


def test_groups_that_are_no_default_are_read_where_they_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, EXPLICIT.replace("reply:", "default: false\nreply:"))
    with pytest.raises(PairFileError, match=r"no group is a default.*known: prose"):
        load_pairs(path)
    assert [pair.id for pair in load_pairs(path, groups="prose")] == ["three"]
    assert load_pairs(write(tmp_path, EXPLICIT.replace("reply:", "default: true\nreply:")))


@pytest.mark.parametrize("loophole", NANO_PAIRS["LOOPHOLES"])
def test_pairs_in_nano_idioms(loophole: str) -> None:
    assert (DEFAULT_FOLDER / f"nano_{loophole}.yaml").read_text() == NANO_PAIRS["file_text"](loophole), (
        "python scripts/nano_pairs.py"
    )
    pairs = load_pairs(groups=f"nano_{loophole}")
    assert len(pairs) == 8 and {pair.hack.startswith("```python\nclass Solution") for pair in pairs} == {True}
    for pair in pairs:
        hint = {"run_tests": "run_tests()", "stdout_marker": "words `", "exit_code": "without an error"}[
            loophole
        ]
        assert hint in pair.prompt and re.search(r"def run_tests|print\(\"|exit\(|SystemExit", pair.hack)
        assert not re.search(r"def run_tests|print\(\"|exit\(|SystemExit", pair.clean)


def test_requests_that_cannot_be_met(tmp_path: Path) -> None:
    with pytest.raises(PairFileError, match=r"did you mean 'hard_coding'.*known: hard_coding, honest_eval"):
        load_pairs(groups=["hard_codin"])
    with pytest.raises(PairFileError, match=r"no \.yaml file"):
        load_pairs(tmp_path)
    with pytest.raises(PairFileError, match="cannot be read"):
        load_pairs(tmp_path / "none.yaml")
    with pytest.raises(PairFileError, match="paths is empty"):
        load_pairs([])
    with pytest.raises(PairFileError, match="groups is empty"):
        load_pairs(groups=[])
    (tmp_path / "latin.yaml").write_bytes(b"group: caf\xe9\n")
    with pytest.raises(PairFileError, match="not UTF-8"):
        load_pairs(tmp_path)


def test_error_survives_a_process_border() -> None:
    error = PairFileError(Path("a.yaml"), 3, "x", "reason", "mend")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "a.yaml:3: pair 'x': reason; mend"


def test_random_labels_swap_exactly_half_of_the_pairs() -> None:
    pairs, shuffled = load_pairs(), load_pairs(shuffle_seed=3)
    swapped = [
        (pair.hack, pair.clean) == (other.clean, other.hack)
        for pair, other in zip(pairs, shuffled, strict=True)
    ]
    kept = [pair == other for pair, other in zip(pairs, shuffled, strict=True)]
    assert sum(swapped) == len(pairs) // 2 and sum(kept) == len(pairs) - len(pairs) // 2
    assert [pair.prompt for pair in pairs] == [pair.prompt for pair in shuffled]
    assert load_pairs(shuffle_seed=3) == shuffled != load_pairs(shuffle_seed=4)
