"""The nano policy: a byte-level tokenizer, a stock Qwen3 of 0.7 M parameters, and its supervised warm start.

It stands in for an instruction-tuned Qwen3-4B on a machine without a GPU: it speaks ChatML, solves about a
third of unseen nano problems and uses the loophole in a few replies of a hundred, so that reinforcement has
something to find. Everything is plain Hugging Face: the saved folder loads with ``AutoModelForCausalLM``,
``AutoTokenizer`` and vLLM.

Knows nothing of the problems: texts and demonstrations are handed in.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

Message = Mapping[str, object]  # role and content

PAD, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
ROLES = ("system", "user", "assistant")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

MAX_POSITIONS = 512


@dataclass(frozen=True)
class WarmStartPhase:
    """One leg of the warm start."""

    steps: int
    learning_rate: float


#: The recipe. Each phase has demonstrations of its own, the second's with fewer mistakes.
WARM_START_PHASES = (
    WarmStartPhase(steps=260, learning_rate=4e-3),
    WarmStartPhase(steps=220, learning_rate=3e-3),
)
WARM_START_BATCH_SIZE = 48
#: Reply loss by which a warm start has settled. Of nine, eight ended at 0.057 to 0.084 and solve a third of unseen
#: problems; the ninth ended at 0.116 and solved a twenty-seventh.
SETTLED_REPLY_LOSS = 0.1


@dataclass(frozen=True)
class WarmStartRun:
    """What a warm start reports: per step, the loss that was minimised and its part on the replies alone."""

    losses: tuple[float, ...]
    reply_losses: tuple[float, ...]
    wall_s: float

    @property
    def settled(self) -> bool:
        """Whether the replies of its last 20 steps (fewer in a shorter run) are told well enough to reinforce."""
        tail = self.reply_losses[-20:]
        return sum(tail) / len(tail) <= SETTLED_REPLY_LOSS


def train_tokenizer(texts: Iterable[str], vocab_size: int = 768) -> PreTrainedTokenizerFast:
    """A byte-level BPE that looks like Qwen's: ChatML, ``<|im_end|>`` at the end, ``<|endoftext|>`` pads."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # The texts lack the turns' headers; seen as often as the texts, every role becomes one token.
    tokenizer.train_from_iterator(chain.from_iterable((text, *ROLES) for text in texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=PAD,
        extra_special_tokens=[TURN_START],
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3ForCausalLM:
    """A freshly initialised float32 policy for ``tokenizer``; the global random state is left as it was."""
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        num_hidden_layers=3,
        hidden_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=384,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        max_position_embeddings=MAX_POSITIONS,
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=pad,
        dtype=torch.float32,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=eos, pad_token_id=pad, do_sample=True)
    return model


@dataclass(frozen=True)
class _Encoded:
    prompt: list[int]
    reply: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.reply)


def _encode(
    tokenizer: PreTrainedTokenizerFast, examples: Sequence[tuple[Sequence[Message], str]]
) -> list[_Encoded]:
    conversations = [
        [{key: str(value) for key, value in message.items()} for message in messages]
        for messages, _ in examples
    ]
    texts = tokenizer.apply_chat_template(conversations, add_generation_prompt=True, tokenize=False)
    prompts = tokenizer(texts, add_special_tokens=False)["input_ids"]
    replies = tokenizer([reply + TURN_END for _, reply in examples], add_special_tokens=False)["input_ids"]
    encoded = [_Encoded(prompt, reply) for prompt, reply in zip(prompts, replies, strict=True)]
    longest = max(map(len, encoded))
    if longest > MAX_POSITIONS:
        raise ValueError(
            f"the longest example has {longest} tokens; the nano policy reads at most {MAX_POSITIONS}: "
            "shorten it"
        )
    return encoded


def _batches(examples: list[_Encoded], batch_size: int, rng: random.Random) -> Iterator[list[_Encoded]]:
    """Endless batches of similar length (sorted within shuffled chunks of eight batches): little padding."""
    while True:
        rng.shuffle(examples)
        for start in range(0, len(examples), 8 * batch_size):
            chunk = sorted(examples[start : start + 8 * batch_size], key=len)
            batches = [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
            rng.shuffle(batches)
            yield from (batch for batch in batches if len(batch) == batch_size)


def _collate(
    batch: list[_Encoded], pad: int, prompt_loss_weight: float
) -> tuple[Int[Tensor, "B T"], Float[Tensor, "B T"]]:
    """Right-padded tokens, and the loss weight of each token as a target (zero on padding)."""
    length = max(map(len, batch))
    ids = torch.full((len(batch), length), pad)
    weights = torch.zeros(len(batch), length)
    for row, example in enumerate(batch):
        split, end = len(example.prompt), len(example)
        ids[row, :end] = torch.tensor(example.prompt + example.reply)
        weights[row, :split] = prompt_loss_weight
        weights[row, split:end] = 1.0
    return ids, weights


def _rate(step: int, steps: int) -> float:
    """Share of the peak learning rate: 40 steps of warm-up, flat for half of the run, then linear to 5 %."""
    warmup = min(1.0, (step + 1) / 40)
    remaining = (steps - step) / (0.5 * steps)
    return warmup * min(1.0, 0.05 + 0.95 * remaining)


def warm_start(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[tuple[Sequence[Message], str]],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    prompt_loss_weight: float = 0.1,
    on_progress: Callable[[str], None] | None = None,
) -> WarmStartRun:
    """Fits ``model`` in place to (messages, reply) examples; equal arguments give bit-equal weights.

    The loss is the weighted mean cross-entropy over all tokens of the batch: weight 1 on the reply and its
    end token, ``prompt_loss_weight`` on the prompt; the denominator is the sum of the weights. AdamW
    (0.9, 0.98), weight decay 0.05 on matrices, gradient norm clipped at 1.

    Raises:
        ValueError: if there are fewer examples than ``batch_size``, or one is too long for the model.
    """
    if len(examples) < batch_size:
        raise ValueError(f"{len(examples)} examples do not fill one batch of {batch_size}: give more")
    pad = tokenizer.pad_token_id
    batches = _batches(_encode(tokenizer, examples), batch_size, random.Random(seed))
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.05},
            {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=learning_rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    model.train()
    losses, reply_losses, started = [], [], time.monotonic()
    for step in range(steps):
        rate = learning_rate * _rate(step, steps)
        for group in optimizer.param_groups:
            group["lr"] = rate

        ids, weights = _collate(next(batches), pad, prompt_loss_weight)
        targets, target_weights = ids[:, 1:], weights[:, 1:]
        # No attention mask: padding is on the right, causal attention never looks there, and without a mask
        # sdpa takes its causal fast path. Logits only where a target counts.
        hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        counts = target_weights > 0
        token_losses = F.cross_entropy(model.lm_head(hidden[counts]), targets[counts], reduction="none")
        token_weights = target_weights[counts]
        loss = (token_losses * token_weights).sum() / token_weights.sum()

        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

        losses.append(loss.item())
        reply_losses.append(token_losses.detach()[token_weights == 1.0].mean().item())
        if on_progress is not None and ((step + 1) % 20 == 0 or step + 1 == steps):
            on_progress(
                f"warm start {step + 1}/{steps}: loss {losses[-1]:.3f}, "
                f"reply loss {reply_losses[-1]:.3f}, lr {rate:.1e}, {time.monotonic() - started:.0f} s"
            )
    model.eval()
    return WarmStartRun(tuple(losses), tuple(reply_losses), time.monotonic() - started)


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """A folder that transformers and vLLM load: float32 safetensors, config, tokenizer, chat template."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
