"""Problems from a LeetCode data set on the Hugging Face hub, with the fields of newfacade/LeetCodeDataset."""

from collections.abc import Iterable, Mapping
from typing import Any

from reward.problems.filters import Dropped, Filtered
from reward.problems.forms.leetcode import DATA_SET, convert_row
from reward.problems.schema import Problem

__all__ = ["DATA_SET", "convert_row", "convert_rows", "load_leetcode"]


def load_leetcode(name: str = DATA_SET, split: str = "train", revision: str | None = None) -> Filtered:
    """Download and convert a data set; what cannot be converted is dropped with its reason.

    Raises ValueError if the package `datasets` is missing, or the data set cannot be had.
    """
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"reading {name} from the hub needs the package datasets; pip install datasets, or give a file"
        ) from error
    try:
        rows = datasets.load_dataset(name, split=split, revision=revision)
    except Exception as error:  # the libraries below it raise classes of their own, with no common base
        raise ValueError(
            f"cannot load split {split!r} of {name} from the hub ({type(error).__name__}: {str(error)[:200]}); check the "
            "name and the network, or copy the problems over as a .jsonl file and give that"
        ) from error
    return convert_rows(rows, name)


def convert_rows(rows: Iterable[Mapping[str, Any]], dataset: str = DATA_SET) -> Filtered:
    """Problems of the rows that can be converted; the others with their reason."""
    kept: list[Problem] = []
    dropped: list[Dropped] = []
    for number, row in enumerate(rows):
        try:
            kept.append(convert_row(row, f"{dataset}, row {number}"))
        except ValueError as error:
            name = row.get("question_id", row.get("task_id", number))
            dropped.append(Dropped(name, "not converted", f"not converted: {error}"))
    return Filtered(kept, dropped)
