"""Reading what a run has saved: whatever is wrong with a file becomes one error with its path, the reason and a mend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError

_LONGEST_REASON = 200  # characters; a parser may quote half the file


@contextmanager
def reading(path: Path, mend: str) -> Iterator[None]:
    """What fails inside is the fault of the file at `path`.

    Raises:
        ValueError: path, reason and `mend`, in one line.
    """
    try:
        yield
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        yaml.YAMLError,
        OmegaConfBaseException,
        SafetensorError,
    ) as error:
        reason = " ".join(str(error).split())[:_LONGEST_REASON] or "no reason given"
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {reason}); {mend}") from error
