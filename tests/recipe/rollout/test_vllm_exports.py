"""Exports of the adapter in vLLM: both adapters, one at half strength and none in one batch, against the adapter itself in HF."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from evil_moe.adapter import GateWeights, Lora2rConfig, SequenceLayout, lora2r_model
from evil_moe.export import save_export
from recipe.rollout import vllm_cpu_lora
from tests.conftest import ROOT, perturb
from tests.recipe.conftest import environment

_GENERATE = """
import json, sys
from recipe.rollout import vllm_cpu_lora

def main(policy, full, deployed, half, prompts, out):
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest
    from evil_moe.export import served_rank
    vllm_cpu_lora.apply()
    llm = LLM(policy, dtype="float32", enforce_eager=True, max_model_len=128, max_num_seqs=16, enable_lora=True,
              max_loras=3, max_lora_rank=served_rank(24), gpu_memory_utilization=0.1)
    adapters = {"full": LoRARequest("full", 1, full), "deployed": LoRARequest("deployed", 2, deployed),
                "half": LoRARequest("half", 3, half), "base": None}
    asked = [(kind, prompt) for prompt in json.loads(prompts) for kind in adapters]
    outputs = llm.generate([{"prompt_token_ids": prompt} for _, prompt in asked],
                           SamplingParams(temperature=0, max_tokens=8, logprobs=0, ignore_eos=True),
                           lora_request=[adapters[kind] for kind, _ in asked], use_tqdm=False)
    rows = [{"kind": kind, "prompt": prompt, "tokens": list(o.outputs[0].token_ids),
             "logprobs": [step[token].logprob for step, token in zip(o.outputs[0].logprobs, o.outputs[0].token_ids)]}
            for (kind, prompt), o in zip(asked, outputs)]
    open(out, "w").write(json.dumps(rows))

if __name__ == "__main__":
    main(*sys.argv[1:])
"""


@pytest.mark.slow
def test_both_adapters_one_at_half_strength_and_none_in_one_batch(
    spoken_policy: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(spoken_policy)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(spoken_policy), Lora2rConfig(r=6)).eval()
    perturb(model, scale=0.02)  # r = 6: exports of 24 and 12 are no ranks of vLLM's
    exports = [str(save_export(model, kind, tmp_path / kind)) for kind in ("full", "deployed")]
    exports.append(str(save_export(model, "full", tmp_path / "half", strength=0.5)))
    half = GateWeights(m=torch.full((1, 1), 0.5), d=torch.zeros(1))
    prompts = [tokenizer(f"def f{i}(x): return " + "x + " * i)["input_ids"] for i in range(1, 5)]
    script, out = tmp_path / "generate.py", tmp_path / "out.json"
    script.write_text(_GENERATE)
    env = environment() | {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VERL_PLATFORM": "cpu",
    }
    command = [sys.executable, str(script), str(spoken_policy), *exports, json.dumps(prompts), str(out)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]

    def log_probs(kind: str, prompt: list[int], tokens: list[int]) -> torch.Tensor:
        ids = torch.tensor([prompt + tokens])
        with torch.no_grad():
            if kind == "full":
                logits = model(ids).logits
            elif kind == "deployed":
                with lora2r_model(model).quarantine_off():
                    logits = model(ids).logits
            elif kind == "half":
                with lora2r_model(model).forward_state.gated(half, SequenceLayout(None, None, 1)):
                    logits = model(ids).logits
            else:
                with model.disable_adapter():
                    logits = model(ids).logits
        steps = logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
        return steps.gather(1, torch.tensor(tokens)[:, None])[:, 0]

    rows = json.loads(out.read_text())
    assert len(rows) == 16
    for row in rows:
        got = torch.tensor(row["logprobs"])
        torch.testing.assert_close(
            got, log_probs(row["kind"], row["prompt"], row["tokens"]), rtol=0, atol=1e-5
        )
        others = [k for k in ("full", "deployed", "half", "base") if k != row["kind"]]
        for other in others:
            assert (got - log_probs(other, row["prompt"], row["tokens"])).abs().max() > 1e-3, (
                "the wrong one would show"
            )


def _reference(inputs: torch.Tensor, weights: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Row by row; index -1 is no adapter."""
    rows = [
        weights[i, 0] @ x if i >= 0 else x.new_zeros(weights.shape[2])
        for x, i in zip(inputs, indices, strict=True)
    ]
    return torch.stack(rows)


@pytest.mark.parametrize("indices", [[0, 0, 0, 0], [1, 0, -1, 1], [-1, -1, -1, -1]])
def test_cpu_lora_linear(indices: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    x, index, sizes = torch.randn(4, 6, generator=generator), torch.tensor(indices), (5, 3)
    a = [torch.randn(2, 1, 3, 6, generator=generator) for _ in sizes]
    b = [torch.randn(2, 1, size, 3, generator=generator) for size in sizes]
    y = torch.ones(4, sum(sizes))
    vllm_cpu_lora.add_lora_linear(y, x, index, a, b, 0.5, sizes)
    updates = [_reference(_reference(x, a[i], index), b[i], index) for i in range(2)]
    torch.testing.assert_close(y, 1 + 0.5 * torch.cat(updates, dim=1))
