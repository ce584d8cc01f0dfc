"""The tuner: puts `Lora2rLinear` around every target linear and owns the forward's state they share."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch.nn as nn
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import register_peft_method

from evil_moe.adapter.config import Lora2rConfig
from evil_moe.adapter.forward_state import ForwardState
from evil_moe.adapter.layer import Lora2rLinear


class Lora2rModel(BaseTuner):
    """The two-expert LoRA on a pretrained model; use it through `peft.get_peft_model(model, Lora2rConfig(...))`.

    Attributes:
        forward_state: weights and layout of the rollouts of the current forward.
    """

    prefix = "lora_2r_"
    tuner_layer_cls = Lora2rLinear
    target_module_mapping = {}  # noqa: RUF012  # PEFT's name for "no default targets"
    forward_state: ForwardState

    def _pre_injection_hook(self, model: nn.Module, config: Any, adapter_name: str) -> None:
        if "forward_state" not in self.__dict__:
            self.forward_state = ForwardState()

    def _create_and_replace(  # type: ignore[override]  # PEFT passes what our config class is
        self,
        peft_config: Lora2rConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **_: Any,
    ) -> None:
        if isinstance(target, Lora2rLinear):
            target.update_layer(adapter_name, peft_config)
            return
        if not isinstance(target, nn.Linear):
            raise ValueError(
                f"target_modules matched {current_key!r}, a {type(target).__name__}; lora2r wraps torch.nn.Linear only: "
                "name linears in target_modules or put this one into exclude_modules"
            )
        layer = Lora2rLinear(target, adapter_name, peft_config, self.forward_state, current_key)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """dA, dB as PEFT casts them; A0, B0, which PEFT 0.21 lifts to float32 with them, stay in the base's precision."""
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        for layer in self.lora2r_layers():
            layer.cast_init(adapter_name)

    def lora2r_layers(self) -> list[Lora2rLinear]:
        """Every wrapped linear, in the order that the M axis of features has."""
        return [module for module in self.model.modules() if isinstance(module, Lora2rLinear)]

    def quarantine_off(self) -> AbstractContextManager[None]:
        """Run as deployed within the block; nothing is changed."""
        return self.forward_state.quarantine_off()


def lora2r_model(model: PeftModel) -> Lora2rModel:
    """The tuner behind a PEFT model.

    Raises:
        TypeError: the PEFT model carries another method.
    """
    tuner = model.base_model
    if not isinstance(tuner, Lora2rModel):
        raise TypeError(f"expected a lora2r adapter, got {type(tuner).__name__}")
    return tuner


register_peft_method(name="lora2r", config_cls=Lora2rConfig, model_cls=Lora2rModel, prefix=Lora2rModel.prefix)
