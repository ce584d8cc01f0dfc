"""Leave nothing behind: no process, no file."""
# Plain system calls: a path object per hostile file costs time and hides which call follows links.
# ruff: noqa: PTH101, PTH104, PTH106, PTH108, PTH123, PTH208

import contextlib
import os
import signal
import time

GIVE_UP_S = 10.0


def reap_all(leader: int) -> None:
    """Kill and reap the process group of ``leader``, then every other descendant.

    The caller must be a child subreaper: orphans then become its own children, so "no child left" means "no
    descendant left". Raises OSError if that is not reached in GIVE_UP_S (processes that fork faster than they
    can be killed).
    """
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):
            kill(leader, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(leader, 0)
    deadline = time.monotonic() + GIVE_UP_S
    pause_s = 0.0001
    while time.monotonic() < deadline:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.01)
            if (
                pause_s > 0.0005
            ):  # the group is dying by itself in nearly every job; look around only after that
                for child in _children():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(child, signal.SIGKILL)
    raise OSError(f"processes of a job outlived {GIVE_UP_S} s of killing: {_children()}")


def _children() -> list[int]:
    """The pids whose parent is this process, from /proc."""
    me, found = os.getpid(), []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", "rb") as file:
                # "pid (name) state ppid ..."; the name may itself hold brackets and spaces
                if int(file.read().rpartition(b")")[2].split()[1]) == me:
                    found.append(int(entry))
    return found


def remove_tree(root: str) -> None:
    """Delete a folder that hostile code filled. Works by moving sub-folders up to ``root`` first, so that
    neither the recursion limit nor the longest path name stops it, and never follows a link."""
    with contextlib.suppress(OSError):
        os.rmdir(root)
        return
    with contextlib.suppress(FileNotFoundError):
        os.chmod(root, 0o700)
        pending = [root]
        while pending:
            folder = pending.pop()
            with os.scandir(folder) as entries:
                children = [(entry.path, entry.is_dir(follow_symlinks=False)) for entry in entries]
            for path, is_folder in children:
                if not is_folder:
                    os.unlink(path)
                    continue
                os.chmod(path, 0o700)
                moved = f"{root}.{os.urandom(8).hex()}"
                os.rename(path, moved)
                pending.append(moved)
            os.rmdir(folder)
