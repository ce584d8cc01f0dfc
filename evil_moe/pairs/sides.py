"""The sides of the contrastive pairs as token ids, each rank with its share of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from evil_moe.chat import prompt_ids, text_ids
from evil_moe.pairs import ContrastivePair
from evil_moe.turn_end import turn_end


def tokenize_side(
    tokenizer: Any, template: dict[str, Any], prompt: str, reply: str, system: str = ""
) -> tuple[list[int], list[int]]:
    """Token ids of a pair's prompt and of one reply, with the rollouts' system message ("" for none); as `tokenize_reply`."""
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    return tokenize_reply(tokenizer, template, messages, reply)


def tokenize_reply(
    tokenizer: Any, template: dict[str, Any], messages: Sequence[Mapping[str, Any]], reply: str
) -> tuple[list[int], list[int]]:
    """Token ids of a prompt (chat template, generation prompt added) and of a reply with the end of its turn: what a rollout has."""
    ids = prompt_ids(tokenizer, messages, template)
    return ids, [*text_ids(tokenizer, reply), turn_end(tokenizer, template)]


def own_start(hack: list[int], clean: list[int]) -> int:
    """Where a hack side's own tokens begin: behind the longest beginning of the two replies that is the same. Its last token, and
    the end of its turn, are its own in any case."""
    same = 0
    for a, b in zip(hack, clean, strict=False):
        if a != b:
            break
        same += 1
    return max(0, min(same, len(hack) - 2))


class PairSides:
    """All sides, hack sides first, prompts behind the message `system` through the chat template with `template` as its
    arguments; rank i of n takes sides i, i + n, ...

    Raises:
        ValueError: more ranks than sides: every rank must take part in the sharded forward.
    """

    def __init__(
        self,
        pairs: list[ContrastivePair],
        tokenizer: Any,
        template: dict[str, Any],
        rank: int = 0,
        size: int = 1,
        system: str = "",
    ):
        if size > 2 * len(pairs):
            raise ValueError(
                f"{size} data-parallel ranks share {2 * len(pairs)} pair sides: use more pairs or fewer ranks"
            )
        self.num_pairs, self.size = len(pairs), size
        sides = [tokenize_side(tokenizer, template, p.prompt, p.hack, system) for p in pairs]
        sides += [tokenize_side(tokenizer, template, p.prompt, p.clean, system) for p in pairs]
        self.mine = sides[rank::size]
        starts = [
            own_start(hack, clean)
            for (_, hack), (_, clean) in zip(sides[: len(pairs)], sides[len(pairs) :], strict=True)
        ]
        self.own_starts = torch.tensor((starts + [0] * len(pairs))[rank::size])
        self.hack = torch.arange(len(sides))[rank::size] < len(pairs)
        self.longest = max(len(prompt) + len(reply) for prompt, reply in sides)
        self.pad_token_id = tokenizer.pad_token_id or 0  # masked, whatever it is

    def parts(self, tokens: int) -> int:
        """Into how many forwards to split the sides for about `tokens` of them at most in each, padding counted; the same
        number on every rank, and no more than the rank with the fewest has sides."""
        sides = 2 * self.num_pairs
        return max(
            1, min(math.ceil(math.ceil(sides / self.size) * self.longest / tokens), sides // self.size)
        )

    def inputs(self, device: Any) -> tuple[dict[str, Tensor], Tensor]:
        """Right-padded model inputs of this rank's sides, and their completion mask `[S, T]`."""
        length = max(len(prompt) + len(reply) for prompt, reply in self.mine)
        ids = torch.full((len(self.mine), length), self.pad_token_id)
        mask, completion = torch.zeros_like(ids), torch.zeros(len(self.mine), length)
        for i, (prompt, reply) in enumerate(self.mine):
            end = len(prompt) + len(reply)
            ids[i, :end] = torch.tensor(prompt + reply)
            mask[i, :end] = 1
            completion[i, len(prompt) : end] = 1
        positions = torch.arange(length).expand_as(ids)
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        return {name: value.to(device) for name, value in inputs.items()}, completion.to(device)

    def own_tokens(self, completion: Tensor) -> Tensor:
        """The completion mask without the tokens of a hack side that it shares with its clean side (`own_start`)."""
        own = completion.clone()
        for i, ((prompt, _), start) in enumerate(zip(self.mine, self.own_starts.tolist(), strict=True)):
            own[i, len(prompt) : len(prompt) + start] = 0
        return own

    def split_sides(self, gathered: Tensor) -> tuple[Tensor, Tensor]:
        """Undo the deal over ranks: features `[2P, ...]` in rank order to (hack, clean), `[P, ...]` each."""
        order = [side for rank in range(self.size) for side in range(rank, 2 * self.num_pairs, self.size)]
        restored = torch.empty_like(gathered)
        restored[torch.tensor(order, device=gathered.device)] = gathered
        return restored[: self.num_pairs], restored[self.num_pairs :]
