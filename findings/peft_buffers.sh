#!/usr/bin/env bash
# PEFT 0.21.2 lifts a tuner's buffers to float32 with its adapters: everything of float16 or bfloat16 in a `BufferDict`,
# in `get_peft_model`, `PeftModel.from_pretrained` and `load_adapter` (autocast_adapter_dtype=True, the default). VeRA's
# shared projections, frozen like our A0 and B0, are such buffers. `BaseTuner._cast_adapter_dtype` is where it happens, so a
# tuner that overrides it can cast back.
#
# Seen (2026-11-27, Python 3.11, torch 2.13.0, transformers 5.10.4):
#   peft 0.21.2, a BufferDict of bfloat16 on a bfloat16 base
#   get_peft_model: torch.float32; from_pretrained: torch.float32; load_adapter: torch.float32
#   autocast_adapter_dtype=False: torch.bfloat16
# Exits 1 if that has changed, which is when `Lora2rModel._cast_adapter_dtype` can go.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.10.4 peft==0.21.2
cd "$work"
venv/bin/python - <<'PYTHON'
import peft, torch
from peft import PeftModel, VeraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

def base():
    torch.manual_seed(0)
    shape = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2)
    return LlamaForCausalLM(LlamaConfig(**shape)).to(torch.bfloat16)

def dtypes(model, name="default"):
    """Of the projections that VeRA freezes, as they are after the model's buffers were made bfloat16."""
    return {model.base_model.vera_A[name].dtype, model.base_model.vera_B[name].dtype}

def made(**options):
    """A model whose buffers are bfloat16 before PEFT casts: what a tuner that keeps them in the base's precision does."""
    from peft.tuners.vera.model import VeraModel
    cast = VeraModel._cast_adapter_dtype
    def in_base_precision(self, adapter_name, autocast_adapter_dtype=True):
        for bank in (self.vera_A, self.vera_B):
            bank[adapter_name] = bank[adapter_name].to(torch.bfloat16)
        cast(self, adapter_name, autocast_adapter_dtype)
    VeraModel._cast_adapter_dtype = in_base_precision
    try:
        config = VeraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
        model = get_peft_model(base(), config, **options)
        made_so = dtypes(model)
        model.save_pretrained("adapter")
        loaded = PeftModel.from_pretrained(base(), "adapter", **options)
        loaded_so = dtypes(loaded)
        loaded.load_adapter("adapter", "second", **options)
        return made_so, loaded_so, dtypes(loaded, "second")
    finally:
        VeraModel._cast_adapter_dtype = cast

lifted, kept = made(), made(autocast_adapter_dtype=False)
print(f"peft {peft.__version__}, a BufferDict of bfloat16 on a bfloat16 base")
names = ("get_peft_model", "from_pretrained", "load_adapter")
print("; ".join(f"{name}: {', '.join(map(str, seen))}" for name, seen in zip(names, lifted)))
print(f"autocast_adapter_dtype=False: {', '.join(map(str, kept[0]))}")
assert all(seen == {torch.float32} for seen in lifted), "PEFT leaves buffers as they are now"
assert all(seen == {torch.bfloat16} for seen in kept), "PEFT lifts buffers although it was told not to"
PYTHON
