"""Router and gate on a model's adapter, and what an optimizer is to move of it."""

from __future__ import annotations

from typing import Any

from peft import PeftModel

from evil_moe.adapter import lora2r_model
from evil_moe.features import Pooling, make_pooling
from evil_moe.gates import make_gate
from evil_moe.placebo import MatchedPlacebo
from evil_moe.router import Router
from evil_moe.settings import MethodSettings, RouterSettings


def install(model: PeftModel, settings: MethodSettings) -> None:
    """Put router and gate on a model's adapter, before it is sharded: their state is then saved and resumed with it.

    Raises:
        ValueError: a plug is not there, or does not have an option.
    """
    tuner, rank, options = lora2r_model(model), model.peft_config["default"].r, settings.router
    device, num_modules = model.device, len(tuner.lora2r_layers())
    pooling = pooling_of(options)
    router = (MatchedPlacebo if options.direction == "haar_matched" else Router)(
        num_modules,
        rank,
        num_blocks=settings.adapter.num_quarantine,
        normalise=options.normalise,
        learn=options.learn,
        anchored=options.threshold == "anchored",
        windows=pooling.windows,
    )
    gate = make_gate(settings.gate.name or "none", **settings.gate.options)
    windows = (len(router.eyes()) * pooling.windows,) if pooling.by_direction else ()
    gate.allocate(*windows, num_modules, rank)
    tuner.lora_2r_router, tuner.lora_2r_gate = router.to(device), gate.to(device)


def pooling_of(options: RouterSettings) -> Pooling:
    """The plug between a forward and the router. Raises ValueError as `make_pooling`."""
    return make_pooling(options.pooling.name or "mean", **options.pooling.options)


def parameter_groups(model: PeftModel, options: RouterSettings, lr: float) -> list[dict[str, Any]]:
    """What an optimizer is to move: dA and dB, and, where it learns, v, at its own rate and without decay."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in trained.items() if "lora_2r_router" not in name]}
    ]
    if options.learn:
        direction = lora2r_model(model).lora_2r_router.direction
        groups.append(
            {"params": [direction], "lr": lr if options.lr is None else options.lr, "weight_decay": 0.0}
        )
    return groups
