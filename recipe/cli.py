"""The command `evil-moe`, with what its commands need of verl, Ray and vLLM."""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Sequence

from evil_moe.experiment.commands.arguments import TRACEBACK_VARIABLE, parsed
from evil_moe.experiment.run.console import INTERRUPTED
from evil_moe.experiment.stack import Stack
from recipe import main_eval, main_train
from recipe.platform import cores, versions
from reward.errors import shown_error
from reward.sandbox import SandboxFault

OUR_PACKAGES = ("evil_moe", "recipe", "reward")
USER_ERROR = 2

STACK = Stack(
    program=(sys.executable, "-m", "recipe.cli"),
    check_version=versions.check_verl,
    check_platform=versions.check_platform,
    check_vllm=versions.check_vllm,
    find_vllm=versions.find_vllm,
    check_cores=cores.check_cores,
    drive=main_train.drive,
    generate=main_eval.generate,
)

_FILE_MENDS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room on that disk"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), "you may not: name another path, or change its permissions"
    ),
}


def _is_ours(error: BaseException) -> bool:
    """Whether our own code raised it; what a library raises under us is a fault, and keeps its traceback."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_globals.get("__name__", "").split(".")[0] in OUR_PACKAGES


def _line(error: BaseException) -> str | None:
    """What a person can mend, in one line: an error of ours, or one about a file, whoever opened it; else None."""
    if isinstance(error, OSError) and error.filename is not None:
        mend = _FILE_MENDS.get(error.errno or 0, "name another path")
        return f"{error.filename}: {error.strerror}; {mend}"
    return shown_error(error) if _is_ours(error) else None


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code, 2 for what the user can mend."""
    args = parsed(argv)
    # Before torch is imported: threads that wait for a core somebody else has are to sleep soon, not spin. On two shared
    # cores the warm start takes several times as long otherwise.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop is a Ctrl-C
    try:
        return int(args.handler(args, STACK))
    except (ValueError, OSError, RuntimeError, SandboxFault) as error:
        line = _line(error)
        if os.environ.get(TRACEBACK_VARIABLE) == "1" or line is None:
            raise
        print(f"evil-moe: error: {line}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("evil-moe: stopped", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
