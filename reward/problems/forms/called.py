"""Forms whose tests are inputs and outputs: APPS, TACO, LiveCodeBench, DeepCoder, SYNTHETIC-1, CodeContests, and verl's rows.

Those that name a function are converted. Those of standard input and output are refused with the way out, for here a
function is called.
"""

import base64
import binascii
import io
import json
import pickle
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from reward.problems.check_functions import carry
from reward.problems.forms.parts import (
    PRELUDE,
    STANDARD_INPUT,
    CallTest,
    Task,
    call_tests,
    callable_of,
    decoded,
    text_of,
)
from reward.problems.schema import Problem


def apps(row: Mapping[str, Any], where: str) -> Problem:
    """codeparrot/apps and BAAI/TACO: question, input_output (inputs, outputs, fn_name), solutions, starter_code."""
    tests = decoded(row.get("input_output"), "input_output")
    found = decoded(row.get("solutions") or "[]", "solutions")
    solutions = [one for one in found if isinstance(one, str)] if isinstance(found, list) else []
    id_ = next(
        (row[name] for name in ("problem_id", "id", "url", "name") if row.get(name) not in (None, "")), where
    )
    return _problem(
        where,
        tests,
        id=id_,
        question=text_of(row, "question"),
        dataset="apps" if "problem_id" in row else "taco",
        starter=str(row.get("starter_code") or ""),
        solution=solutions[0] if solutions else None,
        difficulty=row.get("difficulty"),
    )


def livecodebench(row: Mapping[str, Any], where: str) -> Problem:
    """livecodebench/code_generation_lite: question_content, starter_code, public_test_cases, private_test_cases,
    metadata (func_name)."""
    about = decoded(row.get("metadata") or "{}", "metadata")
    tests = [
        test
        for name in ("public_test_cases", "private_test_cases")
        for test in _test_cases(row.get(name) or "[]", name)
    ]
    return _problem(
        where,
        tests,
        about.get("func_name") if isinstance(about, dict) else None,
        id=row.get("question_id", where),
        question=text_of(row, "question_content"),
        dataset="livecodebench",
        starter=str(row.get("starter_code") or ""),
        difficulty=row.get("difficulty"),
    )


def deepcoder(row: Mapping[str, Any], where: str) -> Problem:
    """agentica-org/DeepCoder-Preview-Dataset: problem, tests (of one of its four kinds), solutions, starter_code; or as rLLM
    writes it: question, ground_truth."""
    about = decoded(row.get("metadata") or "{}", "metadata")
    found = row.get("solutions")
    return _problem(
        where,
        decoded(row.get("tests", row.get("ground_truth")), "tests"),
        about.get("func_name") if isinstance(about, dict) else None,
        id=next((row[name] for name in ("problem_id", "uid") if isinstance(row.get(name), int | str)), where),
        question=text_of(row, "problem", "question"),
        dataset="deepcoder",
        starter=str(row.get("starter_code") or ""),
        solution=found[0] if isinstance(found, list) and found and isinstance(found[0], str) else None,
    )


def synthetic(row: Mapping[str, Any], where: str) -> Problem:
    """PrimeIntellect/SYNTHETIC-1: prompt (or problem), verification_info (language, test_cases), gold_standard_solution."""
    about = decoded(row.get("verification_info"), "verification_info")
    if not isinstance(about, dict) or "test_cases" not in about:
        raise ValueError(
            "field 'verification_info' holds no test_cases; only its code problems can be graded"
        )
    if about.get("language", "python") != "python":
        raise ValueError(f"is written in {about['language']}; only Python can be graded")
    return _problem(
        where,
        about["test_cases"],
        id=row.get("problem_id", where),
        question=text_of(row, "prompt", "problem", "problem_statement"),
        dataset="synthetic-1",
        solution=row.get("gold_standard_solution"),
    )


def verl(row: Mapping[str, Any], where: str) -> Problem:
    """verl's rows: data_source, prompt (messages), reward_model (ground_truth: tests as JSON), extra_info."""
    truth = row["reward_model"].get("ground_truth") if isinstance(row["reward_model"], dict) else None
    try:
        tests = decoded(truth, "reward_model.ground_truth")
    except ValueError:
        tests = None
    if isinstance(tests, dict) and "gt_answer" in tests:
        return Problem.from_row(tests, where)
    if not isinstance(tests, dict | list):
        raise ValueError(
            f"field 'reward_model': its ground_truth {str(truth)[:40]!r} is no tests of a program (data_source "
            f"{row.get('data_source')!r}); only code can be graded"
        )
    about = row.get("extra_info") if isinstance(row.get("extra_info"), dict) else {}
    assert isinstance(about, dict)
    index = about.get("index", where)
    messages = row["prompt"]
    if not isinstance(messages, list) or not all(
        isinstance(one, dict) and "content" in one for one in messages
    ):
        raise ValueError("field 'prompt' holds no messages")
    solution = next(
        (about[name] for name in ("solution", "reference", "answer") if isinstance(about.get(name), str)),
        None,
    )
    return _problem(
        where,
        tests,
        id=f"{row.get('data_source')}-{index}",
        question=str(messages[-1]["content"]),
        dataset=str(row.get("data_source")),
        solution=solution,
        messages=messages,
    )


def codecontests(row: Mapping[str, Any], where: str) -> Problem:
    """deepmind/code_contests: public_tests, private_tests, solutions."""
    raise ValueError(STANDARD_INPUT)


def _problem(where: str, tests: Any, name: str | None = None, **fields: Any) -> Problem:
    """Tests of any of the kinds: {inputs, outputs, fn_name}, {functional: code}, or a list of test cases."""
    codes = fields.get("starter"), fields.get("solution"), fields["question"]
    if isinstance(tests, dict) and isinstance(tests.get("functional"), str):
        name = tests.get("fn_name") or name or _first_function(*codes)
        function = callable_of(str(name), *codes)
        found = carry(tests["functional"], function)
        fields |= {"setup": PRELUDE + found.setup, "judge": found.judge}
        return Task(function=function, asserts=found.asserts, **fields).problem(where)
    if isinstance(tests, dict) and isinstance(tests.get("assert_case"), list):
        raise ValueError(
            "its tests are programs of asserts (assert_case); write them as a list of asserts, as MBPP does"
        )
    if isinstance(tests, dict):
        name = tests.get("fn_name") or name
        calls = call_tests(tests.get("inputs") or [], tests.get("outputs") or []) if name else []
    elif isinstance(tests, list):
        calls, named = _cases(tests)
        name = named or name
    else:
        raise ValueError("holds no tests; without them nothing can be graded")
    if not name or not calls:
        raise ValueError(STANDARD_INPUT)
    function = callable_of(str(name), *codes)
    asserts = [one.statement(function) for one in calls]
    return Task(function=function, asserts=asserts, setup=PRELUDE, **fields).problem(where)


def _cases(tests: Sequence[Any]) -> tuple[list[CallTest], str | None]:
    """Test cases of the kinds ``testtype: functional`` and ``type: function_call``; none if they are of standard input."""
    if not all(isinstance(one, dict) and "input" in one and "output" in one for one in tests):
        raise ValueError("its tests are no list of test cases with 'input' and 'output'")
    kinds = {str(one.get("testtype") or one.get("type") or "stdin") for one in tests}
    if not kinds <= {"functional", "function_call"}:
        return [], None
    first = tests[0] if tests else {}
    about = first.get("metadata") if isinstance(first.get("metadata"), dict) else {}
    name = first.get("fn_name") or (about or {}).get("func_name")
    inputs, outputs = [one["input"] for one in tests], [one["output"] for one in tests]
    return (call_tests(inputs, outputs) if tests else []), name


def _first_function(*codes: Any) -> str:
    for code in codes:
        if found := re.search(r"^\s*def (?!__)(\w+)\(", str(code or ""), re.MULTILINE):
            return found[1]
    raise ValueError("its tests name no function (fn_name), and neither does its code; add fn_name")


class _TextOnly(pickle.Unpickler):
    """LiveCodeBench packs a text with pickle; a pickle that holds anything but plain data is refused, not run."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"holds {module}.{name}, not a text")


def _test_cases(value: Any, name: str) -> list[Any]:
    if isinstance(value, str) and value.lstrip()[:1] not in ("[", "{"):
        try:
            value = _TextOnly(io.BytesIO(zlib.decompress(base64.b64decode(value)))).load()
        except (
            binascii.Error,
            zlib.error,
            pickle.UnpicklingError,
            EOFError,
            ValueError,
            LookupError,
            TypeError,
        ) as error:
            raise ValueError(
                f"field {name!r} is neither JSON nor packed as LiveCodeBench does ({error})"
            ) from error
        if isinstance(value, bytes):
            value = value.decode("utf-8")
    found = json.loads(value) if isinstance(value, str) else value
    if not isinstance(found, list):
        raise ValueError(f"field {name!r} is no list of test cases")
    return found
