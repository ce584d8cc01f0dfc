"""One-sided gradient projection: the gradient that the optimizer gets may lead away from hacking or past it, not towards
it. What Adam makes of it may: momentum and the scale per coordinate come after the projection.

    cos_align = <g, v> / ||g||;   cos_align > 0:  g' = g - <g, v> v,  and g' *= ||g|| / ||g'|| if asked;   else g' = g

per wrapped module, g and v being the pair (dA, dB) as one vector and v = v_hack of unit norm. v_hack is the
gradient of NLL(hack) - NLL(clean) (`evil_moe.hack_gradient`), so that <g, v> > 0 means that the descent step -g
makes the hack sides likelier against the clean ones.

The two matrices of a module go together because to first order they are one change of one weight,
B0 dA + dB A0: what dA gives to hacking and dB takes back needs no projection. Modules go apart, so that a large
one that leans away from hacking does not excuse the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from evil_moe.diagnostics import BLOCK_NAME
from evil_moe.gradients.base import GradientTransform
from evil_moe.sharded import place_like, whole, whole_scalars
from evil_moe.svd import top_singular_vectors

# Less than this share of a gradient left: it was v_hack and nothing else, and rescaling would train on rounding.
LEAST_LEFT = 1e-3


@dataclass(frozen=True)
class _Measure:
    """Of one module: `<g, v>` and `||g||`."""

    dot: float
    norm: float


class Projection(GradientTransform):
    """See the module's docstring.

    Args:
        magnitude: give the projected gradient its old norm back, module by module.
        denoise: m; v's dA is projected on the m leading right singular vectors of the module's weight
            (`v V_m V_m^T`), its dB on the m leading left ones (`U_m U_m^T v`), then v is renormalised. A weight of
            lower rank gives all its vectors. None: v as it is.

    Raises:
        ValueError: denoise below 1.
    """

    def __init__(self, magnitude: bool = True, denoise: int | None = None):
        if denoise is not None and denoise < 1:
            raise ValueError(f"evil_moe.gradient.denoise={denoise} must be at least 1, or null for none")
        self.magnitude, self.denoise = magnitude, denoise
        self._direction: dict[str, Tensor] = {}
        self._modules: dict[str, tuple[str, str]] = {}

    @torch.no_grad()
    def set_direction(
        self,
        by_name: Mapping[str, Tensor],
        weights: Mapping[str, Tensor] | Callable[[str], Tensor] | None = None,
    ) -> dict[str, float]:
        """Take v_hack, of any norm; it is kept placed as given, which must be as the gradients are.

        Args:
            by_name: dA `[R, D_in]` and dB `[D_out, R]` of every module, by parameter name.
            weights: the module's weight `[D_out, D_in]`, plain or sharded, by the part of the parameter's name
                before `.lora_2r_d`; read only if `denoise` is set.

        Returns:
            `denoise_kept`, the mean share of v's squared norm that denoising left (1 without it), and
            `denoise_clipped`, the number of modules whose weight has fewer than m singular vectors.

        Raises:
            ValueError: a module lacks dA or dB, its v is zero or not finite, or `denoise` is set without weights.
        """
        modules = _by_module(by_name)
        if self.denoise is not None and weights is None:
            raise ValueError(
                f"evil_moe.gradient.denoise={self.denoise} needs the weights of the modules: pass them"
            )
        direction, kept, clipped = {}, 0.0, 0
        for module, (name_a, name_b) in modules.items():
            v_a, v_b = whole(by_name[name_a]).float(), whole(by_name[name_b]).float()
            given = math.hypot(v_a.norm().item(), v_b.norm().item())
            if self.denoise is not None:
                assert weights is not None
                weight = whole(weights[module] if isinstance(weights, Mapping) else weights(module))
                left, s, right = top_singular_vectors(weight.to(v_a.device), self.denoise)
                left, right = left.float(), right.float()
                v_a, v_b = (v_a @ right) @ right.T, left @ (left.T @ v_b)
                clipped += len(s) < self.denoise
            norm = math.hypot(v_a.norm().item(), v_b.norm().item())
            if not 0 < norm < math.inf:
                raise ValueError(
                    f"v_hack of {module} has norm {norm}, so it is no direction: its sides must differ and be finite"
                )
            kept += (norm / given) ** 2
            direction[name_a] = place_like(v_a / norm, by_name[name_a])
            direction[name_b] = place_like(v_b / norm, by_name[name_b])
        self._direction, self._modules = direction, modules
        return {"denoise_kept": kept / len(modules), "denoise_clipped": float(clipped)}

    @torch.no_grad()
    def __call__(self, gradients: dict[str, Tensor]) -> dict[str, float]:
        """Project in place. Gradients are plain or sharded as v is; every rank calls, two collectives.

        Returns:
            `cos_align` and `cos_align_after`: cosine of the whole gradient with all modules' unit v's taken as one
            vector, before and after; `share_projected`: share of the modules that leant towards hacking.

        Raises:
            RuntimeError: no direction was set.
            ValueError: the gradients' names are not those of the direction.
        """
        if not self._direction:
            raise RuntimeError("the projection has no v_hack: call set_direction first")
        if gradients.keys() != self._direction.keys():
            odd = sorted(gradients.keys() ^ self._direction.keys())
            raise ValueError(
                f"gradients and v_hack must name the same parameters; only one of them has {odd[0]!r} "
                f"({len(odd)} such)"
            )
        before = self._measure(gradients)
        towards = [module for module, m in before.items() if m.dot > 0]
        for module in towards:
            for name in self._modules[module]:
                gradients[name].add_(self._direction[name], alpha=-before[module].dot)
        after = self._measure(gradients)
        if self.magnitude:
            for module in towards:
                old, left = before[module].norm, after[module]
                if left.norm > LEAST_LEFT * old:
                    scale = old / left.norm
                    for name in self._modules[module]:
                        gradients[name].mul_(scale)
                    after[module] = _Measure(left.dot * scale, old)
        return {
            "cos_align": _cosine(before.values()),
            "cos_align_after": _cosine(after.values()),
            "share_projected": len(towards) / len(before),
        }

    def _measure(self, gradients: Mapping[str, Tensor]) -> dict[str, _Measure]:
        scalars = []
        for name_a, name_b in self._modules.values():
            (g_a, v_a), (g_b, v_b) = ((gradients[n], self._direction[n]) for n in (name_a, name_b))
            scalars += [
                (g_a * v_a).sum(dtype=torch.float64) + (g_b * v_b).sum(dtype=torch.float64),
                g_a.square().sum(dtype=torch.float64) + g_b.square().sum(dtype=torch.float64),
            ]
        values = iter(whole_scalars(scalars).tolist())
        return {module: _Measure(next(values), math.sqrt(next(values))) for module in self._modules}


def _by_module(by_name: Iterable[str]) -> dict[str, tuple[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for name in by_name:
        match = BLOCK_NAME.search(name)
        if match is None:
            raise ValueError(f"{name!r} has no blocks: pass the matrices named lora_2r_dA, lora_2r_dB only")
        found.setdefault(name[: match.start()].rstrip("."), {})[match[1]] = name
    if not found:
        raise ValueError("v_hack is empty: pass the gradients of the adapter's dA and dB")
    for module, names in found.items():
        if len(names) != 2:
            raise ValueError(f"v_hack of {module} has only {sorted(names.values())}: pass its dA and its dB")
    return {module: (names["A"], names["B"]) for module, names in found.items()}


def _cosine(measures: Iterable[_Measure]) -> float:
    measures = list(measures)
    norm = math.sqrt(sum(m.norm**2 for m in measures) * len(measures))  # ||all unit v's|| = sqrt(M)
    return sum(m.dot for m in measures) / norm if norm > 0 else math.nan
