"""The two-expert adapter (lora2r) as a PEFT tuner: config, layer, model and the forward's state they share."""

from evil_moe.adapter.config import LORA2R, Lora2rConfig
from evil_moe.adapter.forward_state import ForwardState, GateWeights, SequenceLayout
from evil_moe.adapter.layer import Lora2rLinear, base_weight
from evil_moe.adapter.model import Lora2rModel, lora2r_model

__all__ = [
    "LORA2R",
    "ForwardState",
    "GateWeights",
    "Lora2rConfig",
    "Lora2rLinear",
    "Lora2rModel",
    "SequenceLayout",
    "base_weight",
    "lora2r_model",
]
