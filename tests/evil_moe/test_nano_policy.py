"""The nano policy: tokenizer, chat template, a reproducible warm start, and the saved folder."""

import ast
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen3ForCausalLM

from evil_moe import nano_policy


def example(index: int) -> tuple[list[dict[str, str]], str]:
    """A little corpus of our own: this package knows nothing of the nano problems."""
    system = {"role": "system", "content": "Write a Python solution in a ```python block."}
    user = {"role": "user", "content": f"Return the list nums, each plus {index % 7}.\n\ndef f(nums):"}
    return [system, user], f"```python\ndef f(nums):\n    return [x + {index % 7} for x in nums]\n```"


EXAMPLES = [example(index) for index in range(64)]
TEXTS = [text for messages, reply in EXAMPLES for text in (*(m["content"] for m in messages), reply)]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """On matrices this small, threads that wait for each other cost more than they save."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return nano_policy.train_tokenizer(TEXTS, vocab_size=300)


def train(tokenizer: PreTrainedTokenizerFast, seed: int, steps: int = 15):
    model = nano_policy.build_model(tokenizer, seed)
    lines: list[str] = []
    run = nano_policy.warm_start(
        model, tokenizer, EXAMPLES, steps=steps, batch_size=8, learning_rate=1e-2, seed=seed,
        on_progress=lines.append,
    )  # fmt: skip
    return model, run, lines


def same_weights(left: Qwen3ForCausalLM, right: Qwen3ForCausalLM) -> bool:
    a, b = left.state_dict(), right.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("text", ["def f(x):\n\n    return x\n", " leading", "tab\tand ünïcode ∑", ""])
def test_tokenizer_round_trip(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens(tokenizer):
    assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id) == (0, 2, None)
    assert len(tokenizer.encode("\n")) == 1  # verl's Qwen boundary handling needs it


def test_chat_template_is_chatml(tokenizer):
    messages = [*EXAMPLES[0][0], {"role": "assistant", "content": "yes"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == (
        f"<|im_start|>system\n{messages[0]['content']}<|im_end|>\n"
        f"<|im_start|>user\n{messages[1]['content']}<|im_end|>\n"
        "<|im_start|>assistant\nyes<|im_end|>\n"
    )
    prompt = tokenizer.apply_chat_template(messages[:2], tokenize=False, add_generation_prompt=True)
    assert prompt.endswith("<|im_end|>\n<|im_start|>assistant\n")
    ids = tokenizer.encode(prompt, add_special_tokens=False)
    templated = tokenizer.apply_chat_template(messages[:2], add_generation_prompt=True, return_dict=True)
    assert templated["input_ids"] == ids
    assert ids[:3] == tokenizer.convert_tokens_to_ids(["<|im_start|>", "system", "Ċ"])


def test_tokenizer_depends_on_the_texts_alone(tokenizer):
    again = nano_policy.train_tokenizer(TEXTS, vocab_size=300)
    assert again.get_vocab() == tokenizer.get_vocab()


def test_model_is_the_small_qwen3(tokenizer):
    model = nano_policy.build_model(tokenizer, seed=0)
    assert type(model) is Qwen3ForCausalLM
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.config._attn_implementation == "sdpa"
    assert model.config.eos_token_id == model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.config.pad_token_id == model.generation_config.pad_token_id == tokenizer.pad_token_id
    assert sum(p.numel() for p in model.parameters()) == 689_216 - (768 - len(tokenizer)) * 128


def test_building_and_training_leave_the_global_random_state(tokenizer):
    before = torch.get_rng_state()
    train(tokenizer, seed=1, steps=2)
    assert torch.equal(before, torch.get_rng_state())


def test_warm_start_lowers_the_loss_and_repeats_bit_for_bit(tokenizer):
    model, run, lines = train(tokenizer, seed=1)
    again, run_again, _ = train(tokenizer, seed=1)
    other, _, _ = train(tokenizer, seed=2)
    assert run.losses[-1] < run.losses[0] - 0.5
    assert len(run.losses) == len(run.reply_losses) == 15
    assert run.losses == run_again.losses
    assert same_weights(model, again)
    assert not same_weights(model, other)
    assert len(lines) == 1 and lines[0].startswith("warm start 15/15: loss ")


def test_padding_changes_nothing(tokenizer):
    """The loss of a batch is that of its rows: right padding is neither read nor counted."""
    model = nano_policy.build_model(tokenizer, seed=0)
    short, long = EXAMPLES[0], (EXAMPLES[1][0], EXAMPLES[1][1] * 3)

    def loss(examples):
        model.load_state_dict(nano_policy.build_model(tokenizer, seed=0).state_dict())
        run = nano_policy.warm_start(
            model, tokenizer, examples, steps=1, batch_size=len(examples), learning_rate=0.0, seed=0,
            prompt_loss_weight=0.0,
        )  # fmt: skip
        return run.losses[0]

    tokens = [len(tokenizer.encode(reply)) + 1 for _, reply in (short, long)]
    alone = [loss([short]), loss([long])]
    weighted = sum(n * value for n, value in zip(tokens, alone, strict=True)) / sum(tokens)
    assert loss([short, long]) == pytest.approx(weighted, rel=1e-5)


def test_refuses_what_it_cannot_fit(tokenizer):
    model = nano_policy.build_model(tokenizer, seed=0)
    settings = {"steps": 1, "learning_rate": 1e-3, "seed": 0}
    with pytest.raises(ValueError, match="do not fill one batch of 8"):
        nano_policy.warm_start(model, tokenizer, EXAMPLES[:3], batch_size=8, **settings)
    endless = [(EXAMPLES[0][0], "x = 1\n" * 400)]
    with pytest.raises(ValueError, match="reads at most 512"):
        nano_policy.warm_start(model, tokenizer, endless, batch_size=1, **settings)


def test_saved_folder_reloads_bit_identically(tokenizer, tmp_path):
    model, _, _ = train(tokenizer, seed=1, steps=3)
    nano_policy.save(model, tokenizer, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    words = AutoTokenizer.from_pretrained(tmp_path)
    assert same_weights(model, loaded)
    assert words.get_vocab() == tokenizer.get_vocab()
    assert words.chat_template == tokenizer.chat_template
    assert (words.eos_token, words.pad_token) == (tokenizer.eos_token, tokenizer.pad_token)
    assert words.encode(TEXTS[1]) == tokenizer.encode(TEXTS[1])
    assert loaded.generation_config.eos_token_id == tokenizer.eos_token_id


def test_imports_neither_the_environment_nor_verl():
    tree = ast.parse(Path(nano_policy.__file__).read_text())
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else alias.name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert imported.isdisjoint({"reward", "recipe", "verl", "ray", "vllm"})


def test_verl_builds_the_same_tokens(tokenizer):
    """verl's agent loop sends the chat template's tokens to the engine and appends a reply untouched."""
    wiring = pytest.importorskip("verl.utils.tokenizer.continuous_token_wiring")
    builder = wiring.create_continuous_token_builder(tokenizer, hf_model_type="qwen3")
    messages, reply = EXAMPLES[0]
    prompt = builder.build_initial_tokens(messages)
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    assert prompt == expected["input_ids"]
    response = tokenizer.encode(reply + "<|im_end|>", add_special_tokens=False)
    merged = builder.merge_assistant_tokens(prompt, response)
    assert merged.token_ids == prompt + response
    assert merged.token_ids[-1] == tokenizer.eos_token_id
    assert builder.align_response_metadata(merged, [])[0] == [1] * len(response)
