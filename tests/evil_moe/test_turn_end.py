"""What ends an assistant's turn, by tokenizers as they are found: the chat template says it, `eos_token` may not."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from evil_moe.turn_end import check_turn_end, turn_end

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_3 = (
    "{{ '<|begin_of_text|>' }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}"
    "{{ m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
)
LLAMA_2 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token + bos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{% for m in messages %}{{ '<start_of_turn>' + (m['role'] if m['role'] == 'user' else 'model') + '\n' }}"
    "{{ m['content'] + '<end_of_turn>\n' }}{% endfor %}"
)
THINKING = CHATML.replace(
    "m['content']", "('<think>\n\n</think>\n\n' if m['role'] == 'assistant' else '') + m['content']"
)
PLAIN = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
USER_ALONE = "{% for m in messages if m['role'] == 'user' %}{{ m['content'] + '</s>' }}{% endfor %}"
MARKS = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<s>", "</s>", "<start_of_turn>", "<end_of_turn>",
]  # fmt: skip


def tokenizer_with(
    template: str, eos: str | None, special: list[str] | None = None
) -> PreTrainedTokenizerFast:
    """Bytes and marks; of the marks some may be special, as a file may leave the others plain."""
    alphabet = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    built = Tokenizer(models.BPE(alphabet, []))
    built.pre_tokenizer, built.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    built.add_special_tokens(MARKS if special is None else special)
    built.add_tokens(MARKS)
    return PreTrainedTokenizerFast(
        tokenizer_object=built, eos_token=eos, bos_token="<s>", chat_template=template, name_or_path="a-model"
    )


@pytest.mark.parametrize(
    ("template", "eos", "end"),
    [
        (CHATML, "<|im_end|>", "<|im_end|>"),
        (CHATML, "<|endoftext|>", "<|im_end|>"),  # a base model that was given a template
        (CHATML, "<|im_start|>", "<|im_end|>"),  # SmolLM2 from a GGUF file
        (LLAMA_3, "<|begin_of_text|>", "<|eot_id|>"),  # Llama 3 from a GGUF file
        (LLAMA_2, "</s>", "</s>"),
        (GEMMA, "<s>", "<end_of_turn>"),
        (THINKING, "<|endoftext|>", "<|im_end|>"),
        (PLAIN, "</s>", "</s>"),
    ],
)
@pytest.mark.parametrize("special", [None, ["<s>"]])
def test_a_turn_ends_as_the_template_ends_it(
    template: str, eos: str, end: str, special: list[str] | None
) -> None:
    tokenizer = tokenizer_with(template, eos, special)
    assert tokenizer.convert_ids_to_tokens(turn_end(tokenizer, {})) == end


def test_a_template_without_an_end_or_a_reply_is_refused() -> None:
    with pytest.raises(ValueError, match="a-model puts no special token behind an assistant's turn"):
        turn_end(tokenizer_with(PLAIN, None), {})
    with pytest.raises(ValueError, match="a-model leaves out what an assistant says"):
        turn_end(tokenizer_with(USER_ALONE, "</s>"), {})


def test_generation_must_stop_where_a_turn_ends() -> None:
    tokenizer = tokenizer_with(LLAMA_3, "<|begin_of_text|>")
    end, other = tokenizer.convert_tokens_to_ids(["<|eot_id|>", "<|im_end|>"])
    check_turn_end(tokenizer, {}, [other, end])
    check_turn_end(tokenizer_with(LLAMA_3, "<|eot_id|>"), {}, [])
    for stops in ([], [other]):
        with pytest.raises(
            ValueError, match=rf"'<\|eot_id\|>' \({end}\), and generation stops at .*add {end} to eos"
        ):
            check_turn_end(tokenizer, {}, stops)
