"""Short rows first in padded micro-batches (recipe/actor/fields.py) against the order of the prompts: one step's forward and backward.

python scripts/bench/row_order.py
python scripts/bench/row_order.py --device cuda --dtype bfloat16 --width 2560 --layers 4 --rank 32 --tokens 1024

Row lengths are those of the nano run: prompts of about 70 tokens, replies of 25 to 112 with a mean of 55; `--tokens` scales
them. `--rollouts` are a micro-batch; a step has two.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import torch
from adapter import arguments, build, compare

from evil_moe.adapter import GateWeights, Lora2rConfig, SequenceLayout, lora2r_model
from recipe.actor.fields import row_order

REPLIES = 8
"""Of a prompt."""
PROMPT, REPLY_MIN, REPLY_MEAN, REPLY_MAX = 70, 25, 55, 112
"""Tokens, in the nano run."""


def main() -> None:
    args = arguments(__doc__.splitlines()[0])
    model = build(args, Lora2rConfig(r=args.rank))
    state = lora2r_model(model).forward_state
    draw, rows = random.Random(0), 2 * args.rollouts
    scale = args.tokens / (PROMPT + REPLY_MEAN)
    keys = [f"{i // REPLIES:04d}_{i % REPLIES}_0" for i in range(rows)]
    reply = [min(REPLY_MAX, REPLY_MIN + draw.expovariate(1 / (REPLY_MEAN - REPLY_MIN))) for _ in keys]
    lengths = [round(scale * (PROMPT + tokens)) for tokens in reply]

    def step(order: list[int]) -> None:
        model.zero_grad(set_to_none=True)
        for start in range(0, rows, args.rollouts):
            micro_batch = torch.tensor([lengths[i] for i in order[start : start + args.rollouts]])
            mask = (torch.arange(micro_batch.max()) < micro_batch.unsqueeze(1)).to(args.device)
            ids = torch.zeros(mask.shape, dtype=torch.long, device=args.device)
            w = torch.full((len(micro_batch),), 0.5, device=args.device)
            layout = SequenceLayout(None, mask.float(), len(micro_batch))
            with state.gated(GateWeights(m=w.unsqueeze(1), d=w), layout):
                logits = model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits
            (logits.float().square().mean(-1) * mask).sum().backward()

    orders = {
        "in the order of the prompts": row_order(keys, None, rows),
        "short rows first": row_order(keys, lengths, rows),
    }
    calls: dict[str, Callable[[], object]] = {name: partial(step, order) for name, order in orders.items()}
    compare(calls, args, lambda name: "in the order of the prompts")


if __name__ == "__main__":
    main()
