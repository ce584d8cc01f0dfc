"""The token that ends an assistant's turn: what a rollout ends with, and so a text that is read as one must."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

_REPLY = "A short reply."


def turn_end(tokenizer: Any, template: Mapping[str, Any]) -> int:
    """Id of the first special token that the chat template puts behind an assistant's reply; where it puts none, the
    tokenizer's end.

    `tokenizer.eos_token` may be another one: `<|endoftext|>` of a base model that was given a chat template, or, read from a
    GGUF file, the token that begins a text.

    Args:
        tokenizer: of transformers, with a chat template. template: further arguments of the template.

    Raises:
        ValueError: the template leaves the reply out, or there is no end.
    """
    messages = [{"role": "user", "content": "A question?"}, {"role": "assistant", "content": _REPLY}]
    _, reply, behind = tokenizer.apply_chat_template(messages, tokenize=False, **template).rpartition(_REPLY)
    if not reply:
        raise ValueError(
            f"the chat template of {tokenizer.name_or_path} leaves out what an assistant says: give the policy another one"
        )
    marks = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    ids = tokenizer(behind, add_special_tokens=False)["input_ids"]
    end = next((token for token in ids if token in marks), tokenizer.eos_token_id)
    if end is None:
        raise ValueError(
            f"the chat template of {tokenizer.name_or_path} puts no special token behind an assistant's turn, and its tokenizer has "
            "no eos_token: set one of the two, so that replies end"
        )
    return int(end)


def check_turn_end(tokenizer: Any, template: Mapping[str, Any], stops: Collection[int]) -> None:
    """That generation stops where the template ends a turn; if not, replies run on, to the limit of their length.

    Args:
        stops: ids at which generation stops, beside the tokenizer's own end: `eos_token_id` of the generation config.

    Raises:
        ValueError: it does not.
    """
    end = turn_end(tokenizer, template)
    stopping = {*stops, *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])}
    if end not in stopping:
        known = ", ".join(
            f"{tokenizer.convert_ids_to_tokens(token)!r} ({token})" for token in sorted(stopping)
        )
        raise ValueError(
            f"the chat template of {tokenizer.name_or_path} ends an assistant's turn with {tokenizer.convert_ids_to_tokens(end)!r} "
            f"({end}), and generation stops at {known or 'no token'} alone, so replies would run on: add {end} to eos_token_id in the "
            "policy's generation_config.json, or give it the chat template that it was trained with"
        )
