"""A problem: the fields of the public benchmark's rows, and what is checked of them."""

import ast
import functools
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypedDict

from reward.checks import parse_checks, root_name
from reward.comparison import ORDERS, Comparison, Order

MAX_CPU_S = 600.0  # more would hold up a whole batch for one program


class Message(TypedDict):
    """A chat message as chat templates take it."""

    role: str
    content: str


@dataclass(frozen=True)
class Problem:
    """One row of a problem file. Fields as in the benchmark; unknown ones are kept in ``extra``.

    id: unique in its file. prompt: chat messages. func_name: the callable under test, e.g. "Solution().foo".
    setup_code: executed before the response. gt_answer: assert statements. canonical_solution: a correct
    program, or None. prompt_metadata: holds "starter_code". Up to ``completion_gt_pass`` the rest is carried along
    and not used by the grader.

    Fields that the benchmark does not have, written only where they are set:
    any_order, tolerance, relative_tolerance: how values are compared (see ``comparison``). None: strictly, and a
    statement that says otherwise may be marked (``marks.mark``). False and 0: strictly, by decision.
    cpu_s: seconds of CPU that a program may take on this problem, None for the grader's own limit.
    judge_code: code that the rest of an assert needs, executed after the setup code where no response runs.
    """

    id: int | str
    prompt: list[Message]
    question: str
    func_name: str
    setup_code: str
    gt_answer: tuple[str, ...]
    canonical_solution: str | None = None
    prompt_metadata: dict[str, Any] = field(default_factory=dict)
    difficulty: str | None = None
    dataset: str | None = None
    evaluator: str | None = None
    answer: tuple[str, ...] | None = None
    hint: str | None = None
    completion_gt_pass: bool | None = None
    any_order: Order | Literal[False] | None = None
    tolerance: float | None = None
    relative_tolerance: float | None = None
    cpu_s: float | None = None
    judge_code: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def starter_code(self) -> str:
        """The code that the prompt asks to complete, "" if the row has none."""
        return str(self.prompt_metadata.get("starter_code", ""))

    @property
    def judge_setup(self) -> str:
        """What is executed before the rest of an assert is judged."""
        return f"{self.setup_code}\n{self.judge_code}" if self.judge_code else self.setup_code

    @functools.cached_property
    def comparison(self) -> Comparison:
        """How an answer is compared with the expected one."""
        return Comparison(self.any_order or None, self.tolerance or 0.0, self.relative_tolerance or 0.0)

    @classmethod
    def from_row(cls, row: object, where: str = "row") -> "Problem":
        """Check a row. Raises ValueError naming ``where``, the field, the reason and how to mend it."""
        if not isinstance(row, dict):
            raise ValueError(
                f"{where}: is a JSON {type(row).__name__}, not an object; write one object per line"
            )
        values: dict[str, Any] = {}
        for name, (types, required) in _SCHEMA.items():
            if name not in row:
                if required:
                    raise ValueError(f"{where}: field {name!r} is missing; add it ({_names(types)})")
                continue
            value = row[name]
            # bool is an int to isinstance; no field takes both
            if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
                raise ValueError(
                    f"{where}: field {name!r} is {type(value).__name__} {str(value)[:60]!r}; "
                    f"it must be {_names(types)}"
                )
            values[name] = value
        _check_own_fields(values, where)
        for index, message in enumerate(values["prompt"]):
            if not isinstance(message, dict) or not all(
                isinstance(message.get(k), str) for k in ("role", "content")
            ):
                raise ValueError(
                    f"{where}: field 'prompt', message {index}: must be an object "
                    "with the texts 'role' and 'content'"
                )
        for name in ("prompt", "gt_answer"):
            if not values[name]:
                raise ValueError(f"{where}: field {name!r} is empty; it needs at least one entry")
        for name in ("gt_answer", "answer"):
            if values.get(name) is not None:
                if not all(isinstance(item, str) for item in values[name]):
                    raise ValueError(
                        f"{where}: field {name!r} holds something that is not a text; write asserts"
                    )
                values[name] = tuple(values[name])
        try:
            root_name(values["func_name"])
        except ValueError as error:
            raise ValueError(f"{where}: field 'func_name': {error}") from error
        try:
            parse_checks(values["gt_answer"], values["func_name"], values["setup_code"])
        except ValueError as error:
            raise ValueError(f"{where}: field 'gt_answer': {error}") from error
        for name in ("setup_code", "judge_code"):
            if (reason := _syntax_error(values.get(name) or "")) is not None:
                raise ValueError(f"{where}: field {name!r} is not Python ({reason}); mend or empty it")
        return cls(**values, extra={key: value for key, value in row.items() if key not in _SCHEMA})

    def to_row(self) -> dict[str, Any]:
        """The row, with optional fields that were absent written out as null; ``from_row`` takes it back."""
        row: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name != "extra" and not (item.name in _OWN and value is None):
                row[item.name] = list(value) if isinstance(value, tuple) else value
        return {**row, **self.extra}


_NONE = type(None)
_SCHEMA: dict[str, tuple[tuple[type, ...], bool]] = {  # field -> (types, required)
    "id": ((int, str), True),
    "prompt": ((list,), True),
    "question": ((str,), True),
    "func_name": ((str,), True),
    "setup_code": ((str,), True),
    "gt_answer": ((list,), True),
    "canonical_solution": ((str, _NONE), False),
    "prompt_metadata": ((dict,), False),
    "difficulty": ((str, _NONE), False),
    "dataset": ((str, _NONE), False),
    "evaluator": ((str, _NONE), False),
    "answer": ((list, _NONE), False),
    "hint": ((str, _NONE), False),
    "completion_gt_pass": ((bool, _NONE), False),
    "any_order": ((bool, str, _NONE), False),
    "tolerance": ((int, float, _NONE), False),
    "relative_tolerance": ((int, float, _NONE), False),
    "cpu_s": ((int, float, _NONE), False),
    "judge_code": ((str, _NONE), False),
}
# Left out where they are not set, so that a file of the benchmark keeps its rows and its checksum.
_OWN = frozenset({"any_order", "tolerance", "relative_tolerance", "cpu_s", "judge_code"})


def _check_own_fields(values: dict[str, Any], where: str) -> None:
    """Fields that the benchmark's rows do not have. Raises ValueError as ``from_row``."""
    if values.get("any_order") is True:
        values["any_order"] = "outer"
    if values.get("any_order") not in (None, False, *ORDERS):
        raise ValueError(
            f"{where}: field 'any_order' is {str(values['any_order'])[:60]!r}; it must be {', '.join(ORDERS)}, true "
            "(outer), or false"
        )
    for name in ("tolerance", "relative_tolerance"):
        if (value := values.get(name)) is not None and not 0 <= value < 1:
            raise ValueError(
                f"{where}: field {name!r} is {value!r}; it must be a number from 0 to below 1, e.g. 1e-5"
            )
    if (cpu_s := values.get("cpu_s")) is not None and not 0 < cpu_s <= MAX_CPU_S:
        raise ValueError(
            f"{where}: field 'cpu_s' is {cpu_s!r}; it must be a number of seconds above 0 and at most {MAX_CPU_S}"
        )


def _names(types: tuple[type, ...]) -> str:
    return " or ".join("null" if kind is _NONE else kind.__name__ for kind in types)


@functools.lru_cache(maxsize=256)
def _syntax_error(source: str) -> str | None:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return str(error)
    return None
