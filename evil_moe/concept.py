"""The concept score: how much a rollout looks like the direction, read in the later middle of the network only.

    score = cos(h[L], v[L]),   L = the modules of the layers whose middle lies in a share of the depth

Representation engineering reads concepts there (Zou et al. 2023; Wu & Tang 2026): early layers are about tokens, the
last ones about the next token. On nano's three layers no middle lies in the default share, and the nearest is the last
layer's, so there the choice has nothing of that rationale.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

DEPTH = (0.6, 0.75)
LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


def modules_by_layer(module_names: Sequence[str]) -> dict[int, list[int]]:
    """Positions on the M axis of each layer's modules, by the layer's number; names like
    `model.layers.3.self_attn.q_proj`. Modules outside of the layers are left out.

    Raises:
        ValueError: no name has a layer in it.
    """
    layers: dict[int, list[int]] = {}
    for position, name in enumerate(module_names):
        if match := LAYER.search(name):
            layers.setdefault(int(match[1]), []).append(position)
    if not layers:
        raise ValueError(
            f"no module of {list(module_names)[:3]} ... is named like 'layers.3.': no depth to choose by"
        )
    return dict(sorted(layers.items()))


def check_depth(depth: Sequence[float]) -> tuple[float, float]:
    """The two shares, in order. Raises ValueError if they are none."""
    if len(depth) != 2 or not 0 <= depth[0] <= depth[1] <= 1:
        raise ValueError(f"depth={depth}: give two shares of the depth in order, e.g. [0.6, 0.75]")
    return depth[0], depth[1]


def modules_at_depth(module_names: Sequence[str], depth: Sequence[float]) -> list[int]:
    """Positions of the modules of the layers with middle `(i + 0.5) / n` in `depth`; if no layer's middle lies there,
    of the one nearest to the centre of `depth`.

    Raises:
        ValueError: depth is not within 0 to 1, in order.
    """
    low, high = check_depth(depth)
    layers = modules_by_layer(module_names)
    middle = {layer: (place + 0.5) / len(layers) for place, layer in enumerate(layers)}
    inside = [layer for layer in layers if low <= middle[layer] <= high]
    nearest = min(layers, key=lambda layer: abs(middle[layer] - (low + high) / 2))
    return [position for layer in inside or [nearest] for position in layers[layer]]


def concept_score(
    features: Float[Tensor, "B M r"],
    direction: Float[Tensor, "M r"],
    module_names: Sequence[str],
    depth: Sequence[float] = DEPTH,
) -> Float[Tensor, " B"]:
    """The cosine, restricted to `modules_at_depth`; features as the router's cosine sees them (normalised or not)."""
    if len(module_names) != len(direction):
        raise ValueError(f"{len(module_names)} module names for a direction of {len(direction)} modules")
    chosen = modules_at_depth(module_names, depth)
    v = direction[chosen].to(features).flatten()
    return F.cosine_similarity(features[:, chosen].flatten(1), v[None], dim=1)
