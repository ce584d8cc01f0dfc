"""What a person sees: marked lines on the terminal, everything in a log, and a failure with its place and its mend."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRESS_PREFIX = "[evil-moe]"
INTERRUPTED = 130
"""Exit code of a command that was stopped."""
_TAIL = 25


def say(line: str) -> None:
    """A line for people; it passes `divert_output`."""
    print(f"{PROGRESS_PREFIX} {line}", flush=True)


def report_failure(what: str, error: Exception, log_path: Path, saved: str) -> int:
    """The end of the log, the error in one line, where the rest is, and what is left of the work; returns 1."""
    tail = log_path.read_text(errors="replace").splitlines()[-_TAIL:]
    reason = str(error).strip().splitlines() or [""]
    print("\n".join(tail), file=sys.stderr)
    print(
        f"\nevil-moe: error: {what} failed: {type(error).__name__}: {reason[-1]}\n"
        f"The last lines are above, all of them in {os.path.relpath(log_path)}. {saved}",
        file=sys.stderr,
    )
    return 1


@contextmanager
def divert_output(log_path: Path, *, verbose: bool) -> Iterator[None]:
    """Send what this process and its children print to `log_path`, and to the terminal what is meant for people.

    On the level of file descriptors, because Ray and vLLM write from other languages and other processes.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    read_end, write_end = os.pipe()

    def pump() -> None:
        with os.fdopen(read_end, errors="replace") as lines, log_path.open("a") as log:
            for line in lines:
                log.write(line)
                log.flush()
                at = 0 if verbose else line.find(PROGRESS_PREFIX)
                if at >= 0:
                    os.write(saved[0], line[at:].encode())

    thread = threading.Thread(target=pump, daemon=True)
    thread.start()
    os.dup2(write_end, 1)
    os.dup2(write_end, 2)
    os.close(write_end)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        thread.join(timeout=5)  # a child that outlives the run may hold the pipe open
