"""Forms in which problems come, told by their fields: the benchmark's own, and those that are converted or refused by name.

A row of the benchmark's form has ``gt_answer`` or ``func_name``. Each other form is a ``Form``, with the fields that tell
it and a function that makes a problem of a row, or says why it cannot.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from reward.problems.forms import asserted, called, leetcode
from reward.problems.schema import Problem

_SHOWN_FIELDS = 12


@dataclass(frozen=True)
class Form:
    """name: for people. fields: all of them tell the form; the first form of FORMS that fits is taken. convert: (row, where)
    to a problem; raises ValueError with the reason, without the place."""

    name: str
    fields: frozenset[str]
    convert: Callable[[Mapping[str, Any], str], Problem]


def _form(name: str, fields: str, convert: Callable[[Mapping[str, Any], str], Problem]) -> Form:
    return Form(name, frozenset(fields.split()), convert)


FORMS = (
    _form("LeetCodeDataset (newfacade)", "entry_point problem_description", leetcode.convert_row),
    _form("LeetCodeDataset (newfacade)", "entry_point query completion", leetcode.convert_row),
    _form("HumanEval", "entry_point prompt test", asserted.humaneval),
    _form("MBPP", "test_list code", asserted.mbpp),
    _form("LiveCodeBench", "question_content public_test_cases", called.livecodebench),
    _form("CodeContests", "description public_tests", called.codecontests),
    _form("APPS", "problem_id question input_output", called.apps),
    _form("TACO", "question input_output", called.apps),
    _form("KodCode", "question test test_info", asserted.kodcode),
    _form("AceCode", "question test_cases", asserted.acecode),
    _form("verl", "data_source prompt reward_model", called.verl),
    _form("SYNTHETIC-1", "verification_info", called.synthetic),
    _form("DeepCoder", "problem tests", called.deepcoder),
    _form("DeepCoder", "question ground_truth", called.deepcoder),
)


def is_own(row: object) -> bool:
    """Whether a row is of the benchmark's form, whole or not."""
    return not isinstance(row, dict) or bool({"gt_answer", "func_name", "setup_code"} & row.keys())


def to_problem(row: object, where: str = "row") -> Problem:
    """A row of any known form as a problem.

    Raises ValueError naming ``where``, the form, and what is wrong or how to convert it.
    """
    if is_own(row):
        return Problem.from_row(row, where)
    assert isinstance(row, dict)
    form = next((form for form in FORMS if form.fields <= row.keys()), None)
    if form is None:
        names = ", ".join(dict.fromkeys(one.name for one in FORMS))
        raise ValueError(
            f"{where}: is of no form that is known here; its fields are {', '.join(map(repr, list(row)[:_SHOWN_FIELDS]))}. "
            f"Known are {names}, and the benchmark's: id, prompt, question, func_name, setup_code, gt_answer"
        )
    try:
        return form.convert(row, where)
    except ValueError as error:
        text = str(error).removeprefix(f"{where}: ")
        raise ValueError(f"{where}: is of {form.name}'s form: {text}") from error
