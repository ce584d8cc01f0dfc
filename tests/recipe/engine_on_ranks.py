"""Run under torchrun by test_engine.py: the real engine on one or two FSDP2 ranks against plain autograd.

Every rank builds the engine on the same tiny policy, runs the old-log-prob read and one gated update over several
micro-batches with pin and contrast, and rank 0 compares v's gradient with one computed without FSDP, ranks or micro-batches.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from peft import PeftModel, get_peft_model
from tensordict import TensorDict
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
from verl.workers.engine.base import EngineRegistry

from evil_moe.adapter import GateWeights, Lora2rConfig, SequenceLayout, lora2r_model
from evil_moe.contrast import contrast_loss
from evil_moe.experiment.settings import EvilMoESettings
from evil_moe.features import Reading
from evil_moe.gates import make_gate
from evil_moe.pin import pin_loss
from evil_moe.router import Router
from evil_moe.sharded import whole as _whole
from recipe.actor.engine import MODEL_TYPE, Lora2rEngine
from recipe.actor.tensors import dense as _dense
from tests.conftest import perturb
from tests.recipe.steps_on_ranks import blocks_of, flat, steps_report

NUM_ROLLOUTS, PROMPT, REPLY, MICRO = 8, 5, 4, 2
CONTRAST = 0.5


WINDOW = 2
POOLINGS: dict[str, dict[str, Any]] = {
    "mean": {},
    "window": {
        "pooling": {"name": "window", "options": {"size": WINDOW, "best": 2}},
        "direction_tokens": "hack_only",
    },
}
FORMS = ("plain", "fused", "gpu")
"""`fused` takes verl's fused head, as the nano presets do; `gpu` that head, packed sequences, micro-batches by tokens and
gradient checkpointing, as the GPU presets do."""


def make_batch(rows: slice, form: str = "plain") -> TensorDict:
    """Rows of a fixed batch: replies of different lengths, alternately from the full and the deployed model."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 60, (NUM_ROLLOUTS, PROMPT + REPLY), generator=generator)
    advantages = torch.randn(NUM_ROLLOUTS, generator=generator)
    replies = [REPLY - i % 3 for i in range(NUM_ROLLOUTS)]
    jagged = lambda parts: torch.nested.as_nested_tensor(parts[rows], layout=torch.jagged)  # noqa: E731
    fields = {
        "input_ids": jagged([ids[i, : PROMPT + n] for i, n in enumerate(replies)]),
        "position_ids": jagged([torch.arange(PROMPT + n) for n in replies]),
        "prompts": jagged([ids[i, :PROMPT] for i in range(NUM_ROLLOUTS)]),
        "responses": jagged([ids[i, PROMPT : PROMPT + n] for i, n in enumerate(replies)]),
        "response_mask": jagged([torch.ones(n, dtype=torch.long) for n in replies]),
        "loss_mask": jagged([torch.ones(n, dtype=torch.long) for n in replies]),
        "advantages": jagged([advantages[i].expand(n).clone() for i, n in enumerate(replies)]),
        "quarantine_on": (torch.arange(NUM_ROLLOUTS) % 2).float().unsqueeze(1)[rows],
    }
    batch = TensorDict(fields, batch_size=len(range(NUM_ROLLOUTS)[rows]))
    tu.assign_non_tensor(
        batch,
        temperature=1.0,
        use_remove_padding=form == "gpu",
        use_dynamic_bsz=form == "gpu",
        use_fused_kernels=form != "plain",
        micro_batch_size_per_gpu=MICRO,
        max_token_len_per_gpu=MICRO * (PROMPT + REPLY),
    )
    return batch


def loss_fn(model_output: dict, data: TensorDict, dp_group: Any = None) -> tuple[Tensor, dict]:
    """- sum over tokens of advantage * log-prob / global number of rollouts, scaled for FSDP's mean over ranks."""
    from verl.workers.utils.padding import response_from_nested

    log_probs = response_from_nested(model_output["log_probs"], data["response_mask"])
    total = -(log_probs.values() * data["advantages"].values()).sum()
    return total * data["dp_size"] / NUM_ROLLOUTS, {}


def settings_of(pooling: str = "mean") -> dict[str, Any]:
    return {
        **asdict(EvilMoESettings()),
        "pairs": {"paths": None, "groups": ["hard_coding"], "matched": True, "chat_template": {}},
        "contrast": {"weight": CONTRAST},
        # Beside which all else must be as without it.
        "gradient": {"name": "split_moment", "options": {"rank_deployed": 4}},
        "router": POOLINGS[pooling],
    }


def build_engine(
    model_path: str,
    settings: dict[str, Any] | None = None,
    form: str = "plain",
    tokens: int | None = None,
    model_type: str = MODEL_TYPE,
    dtype: str = "float32",
) -> Lora2rEngine:
    """`tokens`: of a micro-batch, which bounds what the pairs' forwards hold for a backward, too. `dtype`: of the base
    and of what is computed; gradients are summed up in float32."""
    settings = settings or settings_of()
    model_config = HFModelConfig(
        path=model_path,
        lora_rank=4,
        lora_alpha=4,
        use_remove_padding=form == "gpu",
        enable_gradient_checkpointing=form == "gpu",
        use_fused_kernels=form != "plain",
        fused_kernel_options={"impl_backend": "torch"},
        override_config={"attn_implementation": "sdpa"},
        lora={"rank": 16, "evil_moe": OmegaConf.create(settings)},
    )
    engine = EngineRegistry.new(
        model_type=model_type,
        backend="fsdp2",
        model_config=model_config,
        engine_config=FSDPEngineConfig(
            strategy="fsdp2",
            use_torch_compile=False,
            max_token_len_per_gpu=tokens,
            model_dtype=dtype,
            mixed_precision={"param_dtype": dtype, "reduce_dtype": "fp32", "buffer_dtype": "fp32"},
        ),
        optimizer_config=FSDPOptimizerConfig(lr=1e-3, total_training_steps=4),
        checkpoint_config=CheckpointConfig(),
    )
    engine.initialize()
    return engine


class Whole(Reading):
    """Keeps everything, for windows by hand."""

    def __init__(self, tuner: Any):
        super().__init__(tuner)
        self.by_module: dict[str, Tensor] = {}

    def record(self, module: str, bottleneck: Tensor, layout: SequenceLayout) -> None:
        self.by_module[module] = bottleneck

    def features(self, eyes: Tensor | None = None, *, normalise: bool = True) -> Tensor:
        return torch.stack([self.by_module[name] for name in self.names], dim=2)  # [B, T, M, r]


def pooled(tokens: Tensor, completion: Tensor, pooling: str, v: Tensor) -> Tensor:
    """`[B, M, r]` of means, or `[B, 2, M, r]` of the two best windows along `v: [M, r]`, one rollout after the other."""
    rows = [row[mask > 0] for row, mask in zip(tokens, completion, strict=True)]
    if pooling == "mean":
        return torch.stack([row.mean(0) for row in rows])
    found = []
    for row in rows:
        windows = [row[i : i + WINDOW].mean(0) for i in range(max(1, len(row) - WINDOW + 1))]
        score = lambda f: torch.cosine_similarity((f / f.norm(dim=1, keepdim=True)).flatten(), v.flatten(), 0)  # noqa: E731
        best = sorted(windows, key=score, reverse=True)[:2]
        found.append(torch.stack([*best, best[0]][:2]))
    return torch.stack(found)


def reference(model_path: str, engine: Lora2rEngine, direction: Tensor, pooling: str) -> dict[str, Tensor]:
    """The same step in plain autograd: whole batch padded at once, whole v, no FSDP."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(model_path), Lora2rConfig(r=4)).eval()
    perturb(model)
    tuner = lora2r_model(model)
    state = {k: _whole(v) for k, v in engine.step.router.state_dict().items()}
    router = Router.from_state(state, windows=engine.step.pooling.windows)
    v = router.direction.detach()[:, 0]
    batch = make_batch(slice(None))
    ids = torch.nested.to_padded_tensor(batch["input_ids"], 0)
    lengths = batch["input_ids"].offsets().diff()
    replies = batch["responses"].offsets().diff()
    mask = (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()
    completion = (mask * (torch.arange(ids.shape[1])[None] >= PROMPT)).float()
    layout = SequenceLayout(None, completion, NUM_ROLLOUTS)
    on = batch["quarantine_on"]
    gate = tuner.forward_state
    weights = GateWeights(m=on, d=torch.zeros(NUM_ROLLOUTS))
    with (
        torch.no_grad(),
        gate.gated(weights, layout),
        gate.reading_features(Whole(tuner)) as read,
    ):
        model(ids, attention_mask=mask, return_dict=True)
    features = pooled(read.features(), completion, pooling, v)
    scores = router.score(features)

    def update(weights: GateWeights) -> Tensor:
        """The loss, after its backward."""
        with gate.gated(weights, layout):
            # By hand: verl's fused head replaces the forward of the class.
            policy = model.get_base_model()
            hidden = policy.model(ids, attention_mask=mask).last_hidden_state
            log_probs = policy.lm_head(hidden).log_softmax(-1)
            loss = torch.zeros(())
            for i, n in enumerate(replies.tolist()):
                chosen = log_probs[i, PROMPT - 1 : PROMPT - 1 + n].gather(
                    1, ids[i, PROMPT : PROMPT + n, None]
                )
                loss = loss - (chosen.squeeze(1) * batch["advantages"][i]).sum() / NUM_ROLLOUTS
            loss.backward()
        return loss

    routed = make_gate("router")(router.rollout_signals(features))
    update(GateWeights(m=routed.m.detach(), d=torch.zeros_like(routed.d)))
    unrouted = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    loss = update(routed)
    adapter_grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    reward_grad = router.direction.grad.clone()
    hack, clean = pair_features(model, engine, pooling, v)
    pin_loss(router, hack, clean).backward()
    pinned_grad = router.direction.grad.clone()
    (CONTRAST * contrast_loss(router, features, on.squeeze(1))).backward()
    return {
        "scores": scores.detach(),
        "threshold": scores.detach().median() + 0.5 * router.gap,
        "reward_grad": reward_grad,
        "pinned_grad": pinned_grad,
        "total_grad": router.direction.grad,
        "adapter_grad": flat(adapter_grads),
        "unrouted": flat(unrouted),
        "loss": loss.detach(),
    }


def pair_features(model: PeftModel, engine: Lora2rEngine, pooling: str, v: Tensor) -> tuple[Tensor, Tensor]:
    from evil_moe.pairs import load_pairs
    from evil_moe.pairs.sides import PairSides

    pairs = PairSides(load_pairs(groups=["hard_coding"]), engine.model_config.tokenizer, {}, rank=0, size=1)
    inputs, completion = pairs.inputs("cpu")
    tuner = lora2r_model(model)
    layout = SequenceLayout(None, completion, len(completion))
    with (
        torch.no_grad(),
        tuner.forward_state.gated(None, layout),
        tuner.forward_state.reading_features(Whole(tuner)) as read,
    ):
        model(**inputs, return_dict=True)
    return pairs.split_sides(pooled(read.features(), completion, pooling, v))


QUARTER = 256
"""Positions of a quarter of the long sequences."""


def bfloat16_report(tokenizer_path: str, folder: str) -> dict[str, Any]:
    """The engine on a bfloat16 base: its old log-probs over long sequences against those of the same policy as transformers
    loads it and as an inference engine runs it, weights in bfloat16 and rotary frequencies in float32; and what it sends."""
    length = 4 * QUARTER
    shape = Qwen3Config(
        vocab_size=512, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=128, max_position_embeddings=2 * length, initializer_range=0.05,
        tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )  # fmt: skip
    torch.manual_seed(0)
    Qwen3ForCausalLM(shape).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer_path).save_pretrained(folder)
    ids = torch.randint(5, 60, (2, length), generator=torch.Generator().manual_seed(0))
    rows = lambda tensor: torch.nested.as_nested_tensor(list(tensor), layout=torch.jagged)  # noqa: E731
    batch = TensorDict(
        {
            "input_ids": rows(ids), "position_ids": rows(torch.arange(length).expand(2, -1).clone()),
            "prompts": rows(ids[:, :1]), "responses": rows(ids[:, 1:]),
            "response_mask": rows(torch.ones_like(ids[:, 1:])), "loss_mask": rows(torch.ones_like(ids[:, 1:])),
            "quarantine_on": torch.ones(2, 1),
        },
        batch_size=2,
    )  # fmt: skip
    tu.assign_non_tensor(
        batch, temperature=1.0, use_remove_padding=False, use_dynamic_bsz=False, micro_batch_size_per_gpu=1
    )
    engine = build_engine(folder, dtype="bfloat16")
    with engine.eval_mode():
        actor = _dense(engine.infer_batch(batch, loss_function=None)["model_output"]["log_probs"])[:, :-1]
    sampler = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    with torch.no_grad():
        logits = sampler(ids).logits.float().log_softmax(-1)
    rollout = logits[:, :-1].gather(2, ids[:, 1:, None]).squeeze(2)
    weights, _ = engine.get_per_tensor_param(base_sync_done=True)
    layer = engine.step.tuner.lora2r_layers()[0]
    init = (layer.lora_2r_A0["default"], layer.lora_2r_B0["default"])
    return {
        "difference": [part.mean().item() for part in (actor - rollout).abs().split(QUARTER, dim=1)],
        "sent": sorted({str(value.dtype) for _, value in weights}),
        "init": sorted({str(value.dtype) for value in init}),
        "trained": str(layer.lora_2r_dA["default"].dtype),
        "rotary": sorted({str(b.dtype) for name, b in engine.module.named_buffers() if "inv_freq" in name}),
    }


def main(model_path: str, out: str, form: str, pooling: str) -> None:
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    assert form in FORMS
    engine = build_engine(model_path, settings_of(pooling), form=form)
    # Off the init, so that the quarantine has something to give and the deployed block something to stop.
    full = get_peft_model(AutoModelForCausalLM.from_pretrained(model_path), Lora2rConfig(r=4))
    perturb(full)
    whole = dict(full.named_parameters())
    with torch.no_grad():
        for name, parameter in engine.module.named_parameters():
            if "lora_2r_d" in name:
                from torch.distributed.tensor import distribute_tensor

                parameter.copy_(distribute_tensor(whole[name], parameter.device_mesh, parameter.placements))

    share = NUM_ROLLOUTS // size
    rows = slice(rank * share, (rank + 1) * share)
    with engine.eval_mode():
        read = engine.infer_batch(make_batch(rows, form), loss_function=None)["model_output"]

    def batch(micro: int = MICRO) -> TensorDict:
        made = make_batch(rows, form)
        made["features"] = read["features"]
        tu.assign_non_tensor(made, micro_batch_size_per_gpu=micro)
        return made

    with engine.train_mode():
        engine.optimizer_zero_grad()
        out_train = engine.forward_backward_batch(batch(), loss_fn, forward_only=False)
        v = engine.step.direction_at_rest()
        direction, total_grad = _whole(v.detach()), _whole(v.grad)
        adapter_grad = flat({name: p.grad for name, p in blocks_of(engine).items()})
        unrouted = flat(engine.step.due.unrouted)
        loss = torch.tensor(sum(out_train["loss"]) / size)
        dist.all_reduce(loss)
    scores = [torch.empty(share, 1) for _ in range(size)]
    dist.all_gather(scores, read["router_score"].contiguous())
    state = {k: _whole(t) for k, t in engine.step.router.state_dict().items()}  # collective: on every rank
    if rank == 0:
        engine.step.router.state_dict = lambda: state  # type: ignore[method-assign]
        want = reference(model_path, engine, direction, pooling)
        relative = lambda got, ref: ((got - ref).norm() / ref.norm()).item()  # noqa: E731
        report = {
            "loss": [loss.item(), want["loss"].item()],
            "scores": relative(torch.cat(scores).squeeze(1), want["scores"]),
            "threshold": relative(state["rollout_threshold"], want["threshold"]),
            "total_grad": relative(total_grad, want["total_grad"]),
            "pin_share": (
                (want["pinned_grad"] - want["reward_grad"]).norm() / want["total_grad"].norm()
            ).item(),
            "contrast_share": relative(want["pinned_grad"], want["total_grad"]),
            "reward_share": (want["reward_grad"].norm() / want["total_grad"].norm()).item(),
            "adapter_grad": relative(adapter_grad, want["adapter_grad"]),
            "unrouted": relative(unrouted, want["unrouted"]),
            "withheld": relative(adapter_grad, want["unrouted"]),
            "w": [round(x, 3) for x in read["w"].squeeze(1).tolist()],
            "metrics": dict(out_train["metrics"]),
            "micro_batches": len(out_train["loss"]),
        }
    steps = steps_report(engine, lambda: batch(share), loss_fn) if (form, size) == ("plain", 2) else None
    if rank == 0:
        report["steps"] = steps
        if (form, size) == ("plain", 1):
            report["bfloat16"] = bfloat16_report(model_path, str(Path(out).parent / "bfloat16"))
        Path(out).write_text(json.dumps(report))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
