"""Problems: their schema, their files, where else they come from (``sources``, ``leetcode``), and how a set of them is
filtered and split (``filters``, ``splits``)."""

from reward.problems.files import checksum, load_problems, write_problems
from reward.problems.schema import Message, Problem

__all__ = ["Message", "Problem", "checksum", "load_problems", "write_problems"]
