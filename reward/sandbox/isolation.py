"""The layers as a stack: each tried in a process that is thrown away, then used.

A layer is tried in the same place as it is used, on top of the layers before it, so what is reported is what
a job gets. Nothing is concluded from version numbers.
"""

import os
import typing
from collections.abc import Iterable

from reward.sandbox import sweep
from reward.sandbox.layers import MINIMUM, Layer, LayerReport, Place


class Isolation:
    """The layers that work here."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._active: list[Layer] = []
        self.reports: list[LayerReport] = []

    def start(self, layers: Iterable[Layer]) -> None:
        """Probe each layer; start those that work, in this process."""
        for layer in layers:
            error = self._probe(layer)
            if error is None:
                layer.start(self._place)
                self._active.append(layer)
            self.reports.append(
                LayerReport(layer.name, error is None, layer.detail if error is None else error)
            )

    def apply(self) -> None:
        """Isolate this process, a forked child whose working directory is its scratch folder. Raises
        OSError."""
        for layer in self._active:
            layer.apply(self._place)

    def _probe(self, layer: Layer) -> str | None:
        """Start, apply and check ``layer`` in a child; the reason why it does not work, None if it does."""
        folder = os.path.join(self._place.jobs, "probe")
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            self._try(layer, folder, writer)
        os.close(writer)
        with open(reader, "rb") as pipe:
            answer = pipe.read()
        os.waitpid(child, 0)
        try:
            sweep.remove_tree(folder)
        except OSError as error:
            return f"the server cannot clean up after it: {error}"
        if answer == b"works":
            return None
        return answer.decode(errors="replace") or "the process that tried it was killed"

    def _try(self, layer: Layer, folder: str, writer: int) -> typing.NoReturn:
        place = self._place
        answer = b""
        try:
            layer.start(place)
            make_folder(place, os.path.join(place.jobs, "probe"))
            self.apply()
            layer.apply(place)
            layer.check(place)
            answer = b"works"
        except OSError as error:
            answer = str(error).encode() or b"OSError"
        finally:
            os.write(writer, answer)
            os._exit(0)


def make_folder(place: Place, folder: str) -> None:
    """Make a job's scratch folder, give it to the job's user, and go there."""
    os.mkdir(folder, 0o700)
    if place.uid is not None:
        os.chown(folder, place.uid, place.uid)
    os.chdir(folder)


def missing_from_minimum(reports: Iterable[LayerReport]) -> frozenset[str]:
    """The layers that stand between these reports and the nearest form of the minimum; empty if it is met."""
    there = {report.name for report in reports if report.available}
    return min((needed - there for needed in MINIMUM), key=len)


def weakness_of(reports: Iterable[LayerReport]) -> str | None:
    """Why untrusted code is not run with these layers, and how to mend it; None if the minimum is met."""
    reports = tuple(reports)
    missing = missing_from_minimum(reports)
    if not missing:
        return None
    found = "; ".join(f"{one.name}: {one.detail}" for one in reports if one.name in missing)
    return (
        f"the sandbox refuses to run untrusted code without {', '.join(sorted(missing))} ({found}). Use Linux "
        "5.13 or later with Landlock, or allow user namespaces and seccomp in the container; or accept the "
        "risk with SandboxLimits(allow_weak=True), evil_moe.reward.allow_weak=true"
    )
