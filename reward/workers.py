"""Work spread over several sandboxes, its results in order, with a bounded number of items in flight."""

import contextlib
import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from reward.sandbox import Sandbox, SandboxLimits

Item = TypeVar("Item")
Result = TypeVar("Result")
IN_FLIGHT_PER_WORKER = 8  # enough that one slow item does not idle the others, few enough for long responses


def each_in_sandbox(
    work: Callable[[Sandbox, Item], Result],
    items: Iterable[Item],
    workers: int,
    limits: SandboxLimits,
) -> Iterator[Result]:
    """``work(sandbox, item)`` for every item, in ``workers`` threads with a sandbox each; results in order.

    The sandboxes are closed when the iterator ends, fails or is closed.

    Raises:
        ValueError: workers < 1; and whatever ``work`` or ``items`` raise.
    """
    if workers < 1:
        raise ValueError(f"workers = {workers}: must be at least 1")
    free: queue.LifoQueue[Sandbox] = queue.LifoQueue()  # the last used first: its server is running and warm
    pending: deque[Future[Result]] = deque()

    def run(item: Item) -> Result:
        sandbox = free.get()
        try:
            return work(sandbox, item)
        finally:
            free.put(sandbox)

    with contextlib.ExitStack() as sandboxes, ThreadPoolExecutor(workers) as threads:
        for _ in range(workers):
            free.put(sandboxes.enter_context(Sandbox(limits)))
        try:
            for item in items:
                pending.append(threads.submit(run, item))
                if len(pending) >= IN_FLIGHT_PER_WORKER * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
