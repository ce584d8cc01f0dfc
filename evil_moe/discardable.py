"""The discardable-LoRA baseline: the quarantine learns to hack before RL, is frozen in it and goes at deployment.

RL then has nothing to gain from teaching the deployed block what the quarantine does already. No gate, no router.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from peft import PeftModel
from torch import Tensor

from evil_moe.adapter import GateWeights, SequenceLayout, lora2r_model
from evil_moe.hack_gradient import pair_nll


@dataclass(frozen=True)
class SideBatch:
    """Right-padded sides of pairs.

    Attributes:
        inputs: `input_ids`, `attention_mask` and whatever else the model takes, `[S, T]` each.
        completion: 1 on completion tokens, `[S, T]`.
    """

    inputs: dict[str, Tensor]
    completion: Float[Tensor, "S T"]


def fit_quarantine_(
    model: PeftModel,
    batches: Sequence[SideBatch],
    *,
    steps: int,
    learning_rate: float,
    clip_grad: float = 1.0,
    denominator: float | None = None,
) -> list[float]:
    """Fit the quarantine to hack sides by likelihood; the deployed block stays what it is to the bit.

    Loss of a step: sum over the batch's sides of `pair_nll`, divided by `denominator`. All sides run at m = d = 1,
    so the deployed block has no gradient, and AdamW (its own, thrown away afterwards) does not decay.

    Args:
        batches: hack sides; step i takes batch i modulo their number.
        clip_grad: largest norm of the gradient.
        denominator: None: the number of sides in the batch. Where FSDP averages over ranks that share the sides:
            (sides of all ranks) / ranks.

    Returns:
        The loss before each step; on one rank of several, its own share of it.

    Raises:
        ValueError: no batch, or fewer than one step.
        TypeError: the model carries no lora2r adapter.
    """
    if not batches or steps < 1:
        raise ValueError(f"{steps} steps on {len(batches)} batches fit nothing: both must be at least 1")
    state, config = lora2r_model(model).forward_state, model.peft_config["default"]
    trained = [p for name, p in model.named_parameters() if "lora_2r_d" in name and p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)
    losses = []
    for step in range(steps):
        batch = batches[step % len(batches)]
        sides = len(batch.completion)
        on = torch.ones(sides, device=batch.completion.device)
        weights = GateWeights(m=on.unsqueeze(1).expand(-1, config.num_quarantine), d=on)
        model.zero_grad(set_to_none=True)
        with state.gated(weights, SequenceLayout(None, batch.completion, sides)):
            nll = pair_nll(model, completion=batch.completion, **batch.inputs)
            loss = nll.sum() / (sides if denominator is None else denominator)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, clip_grad)
        optimizer.step()
        losses.append(loss.item())
    model.zero_grad(set_to_none=True)
    return losses
