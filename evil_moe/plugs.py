"""Plugs by name: one of ours by its short name, one of your own by its import path, `my_lab.gates.MyGate`."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

P = TypeVar("P")


def find_plug(stop: str, name: str, ours: Mapping[str, Callable[..., P]], null: str = "") -> Callable[..., P]:
    """What `evil_moe.<stop>.name` names.

    Args:
        null: what the name `null` would mean at this stop, if it may be left out; for the error.

    Raises:
        ValueError: no plug has this name, or its import failed.
    """
    if name in ours:
        return ours[name]
    key = f"evil_moe.{stop}.name={name!r}"
    if "." not in name:
        left_out = f", or null for {null}" if null else ""
        raise ValueError(
            f"{key} names no plug; choose one of {sorted(ours)}{left_out}, or give the import path of a class"
        )
    try:
        found: Callable[..., P] = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{key} cannot be imported ({error}); install its package, or put its folder on PYTHONPATH, and name it "
            "package.module.Class"
        ) from error
    return found


def make_plug(
    stop: str, name: str, ours: Mapping[str, Callable[..., P]], options: Mapping[str, Any], null: str = ""
) -> P:
    """`find_plug`, made with the options of `evil_moe.<stop>.options`.

    Raises:
        ValueError: as `find_plug`; or the plug does not have an option.
    """
    plug = find_plug(stop, name, ours, null)
    try:
        return plug(**options)
    except TypeError as error:
        has = ", ".join(inspect.signature(plug).parameters) or "none"
        raise ValueError(
            f"evil_moe.{stop}.options: {error}; the options of {stop} {name!r}: {has}. An option that a preset or arm sets "
            f"goes with ~evil_moe.{stop}.options.NAME"
        ) from error
