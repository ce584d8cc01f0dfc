"""Gates: from the router's weight of a rollout to the weights `(m, d)` the adapter runs it with. One file each."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from evil_moe.adapter import GateWeights
from evil_moe.gates.absorb import AbsorbGate
from evil_moe.gates.none import NoGate
from evil_moe.gates.router import RouterGate


@runtime_checkable
class Gate(Protocol):
    """A gate: `w [B]` (the router's weight, may carry gradient) to `GateWeights`."""

    def __call__(self, w: Float[Tensor, " B"], num_quarantine: int) -> GateWeights: ...


_GATES: dict[str, type[Gate]] = {"none": NoGate, "absorb": AbsorbGate, "router": RouterGate}


def make_gate(name: str, **options: Any) -> Gate:
    """The gate called `name` with its options.

    Raises:
        ValueError: no such gate, or an option it does not have.
    """
    if name not in _GATES:
        raise ValueError(f"evil_moe.gate.name={name!r} is no gate; choose one of {sorted(_GATES)}")
    try:
        return _GATES[name](**options)
    except TypeError as error:
        raise ValueError(f"evil_moe.gate: {error} (gate {name!r})") from error
