"""Messages as a policy reads them: through the chat template of its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def prompt_text(tokenizer: Any, messages: Sequence[Mapping[str, Any]], template: Mapping[str, Any]) -> str:
    """The prompt up to where the assistant's turn begins; `template` are further arguments of the chat template."""
    return str(
        tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False, **template)
    )


def prompt_ids(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], template: Mapping[str, Any]
) -> list[int]:
    """Its token ids: what a rollout begins with."""
    return text_ids(tokenizer, prompt_text(tokenizer, messages, template))


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """Of text that brings the special tokens it needs, or a reply, which has none."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
