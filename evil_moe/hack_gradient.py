"""v_hack: the adapter's gradient that tells the hack sides of the pairs from the clean ones.

    v_hack = grad of  1/P sum over pairs (NLL(hack) - NLL(clean)),   NLL = mean over completion tokens

A loss gradient g with <g, v_hack> > 0 is one whose descent step makes hacks likelier against clean replies.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def pair_nll(
    model: nn.Module,
    input_ids: Int[Tensor, "S T"],
    attention_mask: Int[Tensor, "S T"],
    completion: Float[Tensor, "S T"],
    **inputs: Any,
) -> Float[Tensor, " S"]:
    """Negative log-likelihood of each side's completion, mean over its completion tokens, in float32.

    The mean, not the sum: a long side counts as much as a short one. The adapter runs in the state its gate is
    in. `completion` is 1 on a completion's tokens; a side without any gets 0.
    """
    out = model(
        input_ids=input_ids, attention_mask=attention_mask, use_cache=False, return_dict=True, **inputs
    )
    counts = completion[:, 1:] > 0  # the token at t is predicted at t - 1
    if out.logits is None:  # a fused head, which gives the log-probability of the next token instead
        losses = -out.log_probs[:, :-1][counts].float()
    else:
        logits = out.logits[:, :-1][counts].float()
        losses = F.cross_entropy(logits, input_ids[:, 1:][counts], reduction="none")
    side = counts.nonzero()[:, 0]
    total = losses.new_zeros(len(input_ids)).index_add_(0, side, losses)
    mean: Tensor = total / counts.sum(1).clamp(min=1)
    return mean


def hack_gradient(
    model: nn.Module,
    inputs: dict[str, Tensor],
    completion: Float[Tensor, "S T"],
    hack: Bool[Tensor, " S"],
    *,
    denominator: float | None = None,
    micro_batches: int = 1,
) -> dict[str, Tensor]:
    """v_hack (see the module's docstring) of every trained dA and dB, by parameter name.

    Gradients of the model are None before and after. Model, gate and mode (train or eval) are the caller's.

    Args:
        inputs: right-padded `input_ids`, `attention_mask` and whatever else the model takes, `[S, T]` each.
        hack: True on hack sides, False on clean ones.
        denominator: what the sum over sides is divided by. None: the number of hack sides here, P. Where FSDP
            averages over ranks that share the sides: P / ranks.
        micro_batches: forwards to split the sides over, the same on every rank. Logits of
            `[S / micro_batches, T, vocabulary]` are held at once.

    Raises:
        ValueError: no denominator, and no hack side.
    """
    if denominator is None:
        denominator = float(hack.sum())
        if denominator == 0:
            raise ValueError("there is no hack side among the sides: pass pairs, or the denominator")
    weight = torch.where(hack, 1.0, -1.0).to(completion) / denominator
    model.zero_grad(set_to_none=True)
    for rows in torch.arange(len(hack), device=hack.device).tensor_split(micro_batches):
        # A rank with fewer sides than micro-batches still takes part in every sharded forward and backward.
        share = weight[rows] if len(rows) else weight[:1] * 0
        rows = rows if len(rows) else rows.new_zeros(1)
        length = int(inputs["attention_mask"][rows].sum(1).max())
        part = {name: value[rows, :length] for name, value in inputs.items()}
        (share * pair_nll(model, completion=completion[rows, :length], **part)).sum().backward()
    gradients = {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if "lora_2r_d" in name and parameter.grad is not None
    }
    model.zero_grad(set_to_none=True)
    return gradients
