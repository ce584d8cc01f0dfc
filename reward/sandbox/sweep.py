"""Leave nothing behind: no process, no file."""

import contextlib
import os
import signal
import time

GIVE_UP_S = 10.0


def reap_all(leader: int) -> int:
    """Kill and reap the process group of ``leader``, then every other descendant; the leader's wait status.

    The caller must be a child subreaper: orphans then become its own children, so "no child left" means "no
    descendant left". Raises OSError if that is not reached in GIVE_UP_S (processes that fork faster than they
    can be killed).
    """
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):
            kill(leader, signal.SIGKILL)
    status = 0
    with contextlib.suppress(ChildProcessError):
        _, status = os.waitpid(leader, 0)
    deadline = time.monotonic() + GIVE_UP_S
    pause_s = 0.0001
    while time.monotonic() < deadline:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == 0:
            _kill_others()
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.01)
    raise OSError(f"processes of a job outlived {GIVE_UP_S} s of killing")


def _kill_others() -> None:
    """Kill every descendant: the whole pid namespace if this process is its first, else those whose parent is
    this process, from /proc."""
    if _is_first_of_namespace():
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        return
    for child in _children():
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def _is_first_of_namespace() -> bool:
    # Whose parent is outside sees no parent. Process 1 of a machine or container is no server of ours: that
    # has the client above it.
    return os.getpid() == 1 and os.getppid() == 0


def _children() -> list[int]:
    """The pids whose parent is this process."""
    me, found = os.getpid(), []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", "rb") as file:
                # "pid (name) state ppid ..."; the name may itself hold brackets and spaces
                if int(file.read().rpartition(b")")[2].split()[1]) == me:
                    found.append(int(entry))
    return found


def tree_bytes(root: str) -> int:
    """The bytes of the files below a folder that hostile code is filling, links not followed. Folders that
    cannot be read count nothing."""
    total, pending = 0, [root]
    while pending:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    return total


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


def empty_folder(folder: str) -> None:
    """Delete all that hostile code put into a folder, and let this user enter it again."""
    os.chmod(folder, 0o711)
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if os.path.isdir(path) and not os.path.islink(path):
            remove_tree(path)
        else:
            os.unlink(path)
