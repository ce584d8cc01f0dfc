"""Small problems, small responses, and a look at the processes of this machine."""

from pathlib import Path
from typing import Any

from reward import Problem

SETUP = """
from typing import *
from collections import *

class ListNode:
    def __init__(self, val=0, next=None):
        self.val, self.next = val, next

def list_node(values):
    head = None
    for value in reversed(values):
        head = ListNode(value, head)
    return head

def is_same_list(a, b):
    while a and b and a.val == b.val:
        a, b = a.next, b.next
    return a is None and b is None

class TreeNode:
    def __init__(self, val=0, left=None, right=None):
        self.val, self.left, self.right = val, left, right

def tree_node(values):
    nodes = [None if v is None else TreeNode(v) for v in values]
    rest = nodes[1:]
    for node in nodes:
        if node:
            node.left = rest.pop(0) if rest else None
            node.right = rest.pop(0) if rest else None
    return nodes[0] if nodes else None

def is_same_tree(p, q):
    if not p or not q:
        return p is q
    return p.val == q.val and is_same_tree(p.left, q.left) and is_same_tree(p.right, q.right)
"""


def make_row(*asserts: str, **changes: Any) -> dict[str, Any]:
    """A small valid row; asserts default to doubling a number."""
    doubling = [f"assert Solution().double(x = {x}) == {2 * x}" for x in range(1, 6)]
    return {
        "id": 1,
        "prompt": [{"role": "user", "content": "Write double, and should pass all tests. Go."}],
        "question": "double",
        "func_name": "Solution().double",
        "setup_code": SETUP,
        "gt_answer": list(asserts) or doubling,
        "canonical_solution": "class Solution:\n    def double(self, x):\n        return 2 * x\n",
        "prompt_metadata": {"starter_code": "class Solution:\n    def double(self, x):\n"},
        **changes,
    }


def make_problem(*asserts: str, **changes: Any) -> Problem:
    return Problem.from_row(make_row(*asserts, **changes))


def fenced(code: str) -> str:
    return f"```python\n{code}\n```"


def method(body: str, rest: str = "") -> str:
    """A response whose ``double`` has this one-line body."""
    return fenced(f"class Solution:\n    def double(self, x):\n        {body}\n\n{rest}")


def _parents() -> dict[int, int]:
    parent = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    return parent


def descendants(pid: int) -> set[int]:
    """Every process below ``pid``, from /proc."""
    parent = _parents()
    found = {pid}
    while more := {child for child, above in parent.items() if above in found} - found:
        found |= more
    return found - {pid}


def sandbox_server(pid: int, before: set[int]) -> int:
    """The fork server of the one sandbox that ``pid`` has started since ``before``: below its keeper, above its jobs."""
    parent = _parents()
    [server] = [child for child, above in parent.items() if parent.get(above) == pid and child not in before]
    return server
