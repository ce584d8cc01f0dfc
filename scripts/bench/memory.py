"""Peak memory of an update and of the old log-probs, measured at the true shapes of Qwen3-4B with few layers, beside doctor's plan.

python scripts/bench/memory.py                   # two layers, 2,048 and 6,144 tokens, shapes alone: a minute
nice python scripts/bench/memory.py --run        # computed on the CPU, beside the process's own peak
nice python scripts/bench/memory.py --read       # computed: the router's read without a head, windows beside means
python scripts/bench/memory.py --head logits     # with whole logits: use_fused_kernels=false

`tensors` are bytes of live tensors at the peak, what a GPU's allocator holds too; without `--run` operators are followed by
their shapes (FakeTensorMode) and nothing is computed. `rss` is the process's own. Both are above what stays (weights, adapter).
The plan is that of `evil_moe/experiment/doctor/memory_plan.py` for the same number of layers, without FSDP: nothing is gathered.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from peft import get_peft_model
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen3Config, Qwen3ForCausalLM

from evil_moe.adapter import GateWeights, Lora2rConfig, SequenceLayout, lora2r_model
from evil_moe.experiment.doctor.memory_plan import (
    GB,
    Architecture,
    Workload,
    activation_bytes,
    bottleneck_bytes,
    head_bytes,
    layer_bytes,
)
from evil_moe.features import MeanPooling, Pooling, WindowPooling

ROOT = Path(__file__).resolve().parents[2]


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages that operators made and that are alive; the most of them so far."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {_storage(leaf)._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(out):
            if (
                isinstance(leaf, Tensor)
                and (key := _storage(leaf)._cdata) not in given
                and key not in self._sizes
            ):
                self._sizes[key] = _storage(leaf).nbytes()
                self.live += self._sizes[key]
                weakref.finalize(_storage(leaf), self._drop, key)
        self.peak = max(self.peak, self.live)
        return out

    def _drop(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def measured(work: Callable[[], object], *, run: bool) -> tuple[int, int | None]:
    """Peak of live tensors, and with `run` of resident memory, each above what was there before."""
    if not run:
        with FakeTensorMode(allow_non_fake_inputs=True), LiveBytes() as live:
            work()
        return live.peak, None
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM from here on
    before = _status("VmRSS")
    with LiveBytes() as live:
        work()
    return live.peak, _status("VmHWM") - before


def measure(args: argparse.Namespace, numbers: dict[str, Any]) -> None:
    """Print a line for each pass over `args.tokens` packed tokens."""
    from verl.utils.experimental.torch_functional import FusedLinearForPPO
    from verl.utils.torch_functional import entropy_from_logits_with_chunking

    shapes = Architecture.from_mapping(numbers | {"layers": args.layers})
    config = Qwen3Config(
        vocab_size=shapes.vocab, hidden_size=shapes.hidden, intermediate_size=shapes.intermediate,
        num_hidden_layers=shapes.layers, num_attention_heads=shapes.heads, num_key_value_heads=shapes.kv_heads,
        head_dim=shapes.head_dim, tie_word_embeddings=shapes.tied, attn_implementation="sdpa", use_cache=False,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    base = Qwen3ForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    base.gradient_checkpointing_enable({"use_reentrant": False})
    base.enable_input_require_grads()
    model = get_peft_model(base, Lora2rConfig(r=32, task_type="CAUSAL_LM")).to(
        torch.bfloat16
    )  # as FSDP gathers it
    model.train()
    rollouts, t = 2, args.tokens
    segment = torch.arange(rollouts).repeat_interleave(t // rollouts)
    layout = SequenceLayout(segment, (torch.arange(t) % (t // rollouts) > 512).float(), rollouts)
    ids = torch.randint(shapes.vocab, (1, t))
    positions = (torch.arange(t) % (t // rollouts)).unsqueeze(0)
    w = torch.tensor([0.2, 0.9])
    state, fused = lora2r_model(model).forward_state, FusedLinearForPPO()

    load = Workload(
        ranks=1, total_rank=64, export_rank=128, lora_slots=2, train_tokens=t, gradient_checkpointing=True, max_num_seqs=0,
        max_model_len=0, base_bytes=2, compute_bytes=2, rollout_bytes=2, device_bytes=0, vllm_bytes=None,
        fused_head=args.head == "fused",
    )  # fmt: skip

    def hidden() -> Tensor:
        return base.model(input_ids=ids, position_ids=positions, use_cache=False)[0]

    def log_probs() -> Tensor:
        return fused(hidden(), base.lm_head.weight, ids.roll(-1), 0.7)[0]

    def update() -> None:
        with state.gated(GateWeights(m=w.unsqueeze(1), d=w), layout):
            log_probs().sum().backward()

    def layers_alone() -> None:
        with state.gated(GateWeights(m=w.unsqueeze(1), d=w), layout):
            hidden().sum().backward()

    def old_log_probs() -> None:
        with (
            torch.no_grad(),
            state.gated(None, layout),
            state.reading_features(MeanPooling().reading(lora2r_model(model))),
        ):
            if args.head == "fused":
                log_probs()
            else:
                entropy_from_logits_with_chunking(base.lm_head(hidden())[0] / 0.7)

    def read(pooling: Pooling) -> Callable[[], None]:
        eyes = torch.randn(1, shapes.num_linears, 32)

        @torch.no_grad()
        def run() -> None:
            reading = pooling.reading(lora2r_model(model))
            with state.gated(None, layout), state.reading_features(reading):
                hidden()
            reading.features(eyes)

        return run

    passes: dict[str, Callable[[], object]] = {"old log-probs": old_log_probs}
    if args.head == "fused":
        passes = {"update": update, "layers alone": layers_alone} | passes
    reads = {"read, means": MeanPooling(), "read, windows": WindowPooling(4)}
    head = args.head
    if args.read:
        head = "none"
        passes = {name: read(pooling) for name, pooling in reads.items()}
    for name, work in passes.items():
        tensors, rss = measured(work, run=args.run or args.read)
        gradients = 2 * shapes.lora_parameters(64)  # of dA and dB, here in bfloat16
        if name == "update":
            plan = sum(item.bytes for item in activation_bytes(shapes, load)) + gradients
        elif name == "layers alone":
            inputs = t * shapes.hidden * shapes.layers * load.compute_bytes
            plan = inputs + layer_bytes(shapes, load, backward=True) + gradients
        else:
            plan = layer_bytes(shapes, load, backward=False)
            if name == "old log-probs":
                plan = max(plan, head_bytes(shapes, load, backward=False))
            if name == "read, windows":
                plan += bottleneck_bytes(shapes, replace(load, kept_rank=32))
        resident = "" if rss is None else f"rss {rss / GB:6.3f} GB, "
        print(
            f"{name:<14}{head:<7}{t:>6} tokens: tensors {tensors / GB:6.3f} GB, {resident}plan {plan / GB:6.3f} GB"
            f" ({plan / tensors - 1:+.0%})",
            flush=True,
        )
        model.zero_grad(set_to_none=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument(
        "--run",
        action="store_true",
        help="compute, which takes minutes and 9 GB, and read the process's memory",
    )
    parser.add_argument(
        "--read",
        action="store_true",
        help="compute the read alone: how many windows there are is a value, which shapes do not have",
    )
    parser.add_argument("--head", choices=["fused", "logits"], default="fused")
    parser.add_argument("--tokens", type=int, help="one length alone, in this process")
    args = parser.parse_args()
    if args.tokens is None:  # a process each, which gives freed memory back to the system at once
        for tokens in (2048, 6144):
            command = [sys.executable, *sys.argv, f"--tokens={tokens}"]
            subprocess.run(command, env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}, check=True)
        return
    preset = OmegaConf.load(ROOT / "configs/preset/qwen3_4b_1x96gb.yaml")
    measure(args, OmegaConf.to_container(preset.evil_moe.policy.architecture))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
