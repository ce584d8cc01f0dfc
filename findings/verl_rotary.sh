#!/usr/bin/env bash
# verl 0.9.1 casts rotary frequencies with the weights: `FSDPEngine._build_module` ends in `module.to(torch_dtype)`, "some
# parameters may not in torch_dtype", and with `fsdp_config.model_dtype: bfloat16` that takes the buffers `inv_freq` and
# `original_inv_freq` along, which transformers makes, and vLLM uses, in float32.
#
# Seen (2026-11-27, Python 3.11, torch 2.13.0, transformers 5.10.4):
#   verl 0.9.1, model_dtype bfloat16: inv_freq torch.bfloat16; transformers' own from_pretrained: torch.float32
#   largest error of a frequency 0.37 %, of a phase at position 1,000 1.15 rad (theta 1e6, head dim 128)
# Exits 1 if that has changed, which is when `restore_constants_` in recipe/actor/engine.py can go.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.10.4 verl==0.9.1
cd "$work"
# verl has no platform without an accelerator; nothing below asks for one.
VERL_PLATFORM=nvidia venv/bin/python - 2>stderr <<'PYTHON' || { cat stderr; exit 1; }
from importlib.metadata import version
from types import SimpleNamespace
import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM
from verl.workers.engine.fsdp.transformer_impl import FSDPEngine

shape = dict(vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
             num_key_value_heads=1, head_dim=128, rope_parameters={"rope_type": "default", "rope_theta": 1e6})
Qwen3ForCausalLM(Qwen3Config(**shape)).save_pretrained("policy")
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
engine = SimpleNamespace(
    engine_config=SimpleNamespace(model_dtype="bfloat16", forward_only=False),
    model_config=SimpleNamespace(
        hf_config=AutoConfig.from_pretrained("policy"), model_type="language_model", local_path="policy",
        trust_remote_code=False, use_liger=False, fused_kernel_options=None, use_fused_kernels=False,
        enable_gradient_checkpointing=False,
    ),
    device_mesh=SimpleNamespace(get_coordinate=lambda: [0]), use_remove_padding=False, ulysses_sequence_parallel_size=1,
)
built = FSDPEngine._build_module(engine).model.rotary_emb
loaded = AutoModelForCausalLM.from_pretrained("policy", dtype=torch.bfloat16).model.rotary_emb
print(f"verl {version('verl')}, model_dtype bfloat16: inv_freq {built.inv_freq.dtype}; "
      f"transformers' own from_pretrained: {loaded.inv_freq.dtype}")
true, cast = loaded.inv_freq.double(), built.inv_freq.double()
print(f"largest error of a frequency {100 * ((cast - true) / true).abs().max():.2f} %, of a phase at position 1,000 "
      f"{1000 * (cast - true).abs().max():.2f} rad (theta 1e6, head dim 128)")
for name in ("inv_freq", "original_inv_freq"):
    assert getattr(built, name).dtype == torch.bfloat16, "verl leaves rotary frequencies as they are now"
    assert getattr(loaded, name).dtype == torch.float32, "transformers itself casts rotary frequencies"
PYTHON
