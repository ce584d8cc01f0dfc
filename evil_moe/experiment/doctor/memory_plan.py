"""What a run keeps in a GPU's memory, from the model's numbers and the config alone. 1 GB = 1e9 bytes.

Training and generation alternate on one device: vLLM sleeps while the actor trains, the actor's weights and
optimizer stay while vLLM generates. Not counted: the CUDA context and the allocator's slack, about 2 GB; and, where windows are
read in the base model's features, the pairs' bottlenecks, which stay (2 M r bytes a reply token in bfloat16: Qwen3-4B's 252
modules, r = 32 and some 7,000 tokens of all 50 pairs make 0.1 GB).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FP32_BYTES = 4
GB = 1e9
# Rows at a time of verl's fused head and of its chunked entropy, and, fitted to scripts/bench/memory.py (docs/gpu.md), how many
# fp32 copies of those rows live at once and what an open layer takes whatever the tokens, in copies of its weights.
FUSED_CHUNK, FUSED_ROWS, FUSED_ROWS_BACKWARD = 512, 2.5, 5.5
ENTROPY_CHUNK, ENTROPY_ROWS = 2048, 3.0
LAYER_COPIES = 0.75


@dataclass(frozen=True)
class Architecture:
    """A Qwen3-like decoder: gated MLP, grouped-query attention, RMS norms, no biases."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool

    @classmethod
    def from_hf(cls, config: Any) -> Architecture:
        """From a Hugging Face `Qwen3Config`, or one with the same fields."""
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            vocab=config.vocab_size,
            tied=config.tie_word_embeddings,
        )

    @classmethod
    def from_mapping(cls, numbers: Mapping[str, Any]) -> Architecture:
        """From `evil_moe.policy.architecture` of a preset.

        Raises:
            ValueError: a number is missing or unknown.
        """
        try:
            return cls(**{str(key): value for key, value in numbers.items()})
        except TypeError as error:
            need = ", ".join(cls.__annotations__)
            raise ValueError(f"evil_moe.policy.architecture: {error}; it needs {need}") from error

    @property
    def linears(self) -> tuple[tuple[int, int], ...]:
        """`(D_in, D_out)` of one layer's q, k, v, o, gate, up, down."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        up = (self.hidden, self.intermediate)
        return (self.hidden, q), (self.hidden, kv), (self.hidden, kv), (q, self.hidden), up, up, up[::-1]

    @property
    def num_linears(self) -> int:
        """M, the wrapped modules of the whole model."""
        return self.layers * len(self.linears)

    @property
    def linear_widths(self) -> int:
        """Sum of `D_in + D_out` over one layer's linears: the size of its LoRAs per rank."""
        return sum(d_in + d_out for d_in, d_out in self.linears)

    @property
    def embedding_parameters(self) -> int:
        """Embedding and, where it is a matrix of its own, the head."""
        return self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def layer_parameters(self) -> int:
        """Linears, two norms of the width, two of the head."""
        return sum(d_in * d_out for d_in, d_out in self.linears) + 2 * self.hidden + 2 * self.head_dim

    @property
    def parameters(self) -> int:
        """The whole base model."""
        return self.embedding_parameters + self.layers * self.layer_parameters + self.hidden

    def lora_parameters(self, rank: int) -> int:
        """A and B of `rank` on every linear."""
        return rank * self.linear_widths * self.layers

    def kv_bytes_per_token(self, dtype_bytes: int) -> int:
        """Keys and values of one token over all layers."""
        return 2 * self.kv_heads * self.head_dim * self.layers * dtype_bytes


@dataclass(frozen=True)
class Workload:
    """What of a config the memory depends on.

    Attributes:
        ranks: FSDP ranks, over which weights, gradients and optimizer state are split.
        total_rank: R = r + K * q of the trained adapter.
        export_rank: of the larger LoRA that vLLM holds. lora_slots: how many of them.
        train_tokens: most tokens of a micro-batch on one rank.
        base_bytes, compute_bytes, rollout_bytes: per number of the stored base, of activations, and in vLLM.
        device_bytes: memory of one device.
        vllm_bytes: what vLLM may take; its KV cache gets what weights and slots leave. None: the cache has
            `kv_cache_bytes` of its own.
        fused_head: whether verl's fused head takes the log-probs. deployed_rank: of the smaller export.
        bucket_bytes: of verl's transfer to vLLM. graph_bytes: of vLLM's CUDA graphs.
        gradients: how many of the adapter are held at once.
        kept_rank: r, where the read of the old log-probs keeps the bottlenecks of all completion tokens until its forward is
            over; 0 where each module's are pooled at once, as means are.
    """

    ranks: int
    total_rank: int
    export_rank: int
    lora_slots: int
    train_tokens: int
    gradient_checkpointing: bool
    max_num_seqs: int
    max_model_len: int
    base_bytes: int
    compute_bytes: int
    rollout_bytes: int
    device_bytes: float
    vllm_bytes: float | None
    kv_cache_bytes: float = 0.0
    fused_head: bool = True
    deployed_rank: int = 64
    bucket_bytes: float = 2 * 2**30
    graph_bytes: float = 0.0
    gradients: int = 1
    kept_rank: int = 0


@dataclass(frozen=True)
class Item:
    """One line of a plan."""

    name: str
    bytes: float


@dataclass(frozen=True)
class MemoryPlan:
    """Every phase on one device.

    Attributes:
        resident: what stays in all. training, old_log_probs, sync, rollout: what each phase adds; vLLM sleeps in the first two.
        kv_cache: bytes left to vLLM's KV cache. kv_needed: of `max_num_seqs` sequences of full length.
    """

    resident: tuple[Item, ...]
    training: tuple[Item, ...]
    old_log_probs: tuple[Item, ...]
    sync: tuple[Item, ...]
    rollout: tuple[Item, ...]
    kv_per_token: int
    kv_cache: float
    kv_needed: float
    device: float

    def _with_resident(self, items: tuple[Item, ...]) -> float:
        return sum(item.bytes for item in (*self.resident, *items))

    @property
    def training_total(self) -> float:
        """Bytes at the peak of the update or of the old log-probs, vLLM asleep."""
        return max(self._with_resident(self.training), self._with_resident(self.old_log_probs))

    @property
    def rollout_total(self) -> float:
        """Bytes while vLLM is awake: it generates, or takes the adapters before it has its cache."""
        return max(self._with_resident(self.rollout), self._with_resident(self.sync))

    @property
    def fits(self) -> bool:
        """Whether all phases stay within the device and one sequence of full length has a cache."""
        return max(self.training_total, self.rollout_total) <= self.device and self.kv_cache > 0


def layer_bytes(model: Architecture, work: Workload, *, backward: bool) -> float:
    """One layer open: inputs and outputs of its linears with their gradients; forward only, four tensors of the MLP's width."""
    if backward:
        fixed = LAYER_COPIES * model.layer_parameters * work.compute_bytes
        return 2 * work.train_tokens * model.linear_widths * work.compute_bytes + fixed
    return 4 * work.train_tokens * model.intermediate * work.compute_bytes


def head_bytes(model: Architecture, work: Workload, *, backward: bool) -> float:
    """The log-probs of a micro-batch.

    verl's fused head takes 512 tokens at a time, whatever the micro-batch: their logits, and `FUSED_ROWS` or
    `FUSED_ROWS_BACKWARD` fp32 copies at once; its backward makes the gradient of the frozen head, too. Else the logits of all
    tokens, in the update with their gradient, in the pass of old log-probs with the fp32 copies of verl's chunked entropy.
    """
    if work.fused_head:
        tokens = min(FUSED_CHUNK, work.train_tokens)
        logits = tokens * model.vocab * work.compute_bytes
        if not backward:
            return logits + FUSED_ROWS * tokens * model.vocab * FP32_BYTES
        head = model.vocab * model.hidden * work.compute_bytes
        states = (
            2 * work.train_tokens * model.hidden * work.compute_bytes
        )  # the last hidden ones and their gradient
        return logits + FUSED_ROWS_BACKWARD * tokens * model.vocab * FP32_BYTES + head + states
    logits = work.train_tokens * model.vocab * work.compute_bytes
    if backward:
        return 2 * logits
    return logits + ENTROPY_ROWS * min(ENTROPY_CHUNK, work.train_tokens) * model.vocab * FP32_BYTES


def activation_bytes(model: Architecture, work: Workload) -> tuple[Item, ...]:
    """What a micro-batch of the update keeps at its peak.

    With checkpointing each layer's input, and what is greater of one layer open in the backward and the head: the head's
    tensors are gone when the backward reaches the last layer. Without: inputs and outputs of the linears of all layers.
    """
    head = Item("log-probs and their gradient", head_bytes(model, work, backward=True))
    if not work.gradient_checkpointing:
        per_layer = work.train_tokens * model.linear_widths * work.compute_bytes
        return Item("activations of all layers", model.layers * per_layer), head
    inputs = work.train_tokens * model.hidden * model.layers * work.compute_bytes
    layer = Item("one layer open in the backward", layer_bytes(model, work, backward=True))
    return Item("checkpointed activations", inputs), max(layer, head, key=lambda item: item.bytes)


def sync_bytes(model: Architecture, work: Workload) -> float:
    """Beside vLLM's weights and slots while the adapters go to it.

    The adapter whole on each rank, both exports in fp32 and in the base's precision, verl's transfer bucket, and what vLLM's
    side takes from it.
    """
    adapter = model.lora_parameters(work.total_rank) * FP32_BYTES
    exported = model.lora_parameters(work.export_rank + work.deployed_rank)
    return adapter + exported * (FP32_BYTES + 2 * work.base_bytes) + work.bucket_bytes


def bottleneck_bytes(model: Architecture, work: Workload) -> float:
    """What windows keep of a micro-batch, in the base's precision, M r numbers a token; every token is taken for a completion's."""
    return work.train_tokens * model.num_linears * work.kept_rank * work.base_bytes


def plan_memory(model: Architecture, work: Workload) -> MemoryPlan:
    """The plan of one device of `work.ranks` equal ones."""
    trained = model.lora_parameters(work.total_rank) * FP32_BYTES / work.ranks
    resident = (
        Item("base weights, actor", model.parameters * work.base_bytes / work.ranks),
        Item("adapter dA, dB (fp32)", trained),
        Item("Adam (fp32)", 2 * trained),
        # Buffers, which FSDP does not split.
        Item("frozen init A0, B0", model.lora_parameters(work.total_rank) * work.base_bytes),
    )
    gathered = Item(
        "gathered: embedding, two layers",
        (model.embedding_parameters + 2 * model.layer_parameters) * work.compute_bytes,
    )
    training = (Item("gradients (fp32)", work.gradients * trained), gathered, *activation_bytes(model, work))
    reading = max(layer_bytes(model, work, backward=False), head_bytes(model, work, backward=False))
    old_log_probs: tuple[Item, ...] = (gathered, Item("a layer, or log-probs with entropy", reading))
    if work.kept_rank:
        old_log_probs += (Item("token bottlenecks of the router's windows", bottleneck_bytes(model, work)),)
    base = model.parameters * work.rollout_bytes
    slots = work.lora_slots * model.lora_parameters(work.export_rank) * work.rollout_bytes
    # vLLM profiles its CUDA graphs and takes them out of its share before the cache.
    graphs = 0.0 if work.vllm_bytes is None else work.graph_bytes
    kv_cache = (
        work.kv_cache_bytes if work.vllm_bytes is None else max(0.0, work.vllm_bytes - base - slots - graphs)
    )
    per_token = model.kv_bytes_per_token(work.rollout_bytes)
    weights = (
        Item("base weights, vLLM", base),
        Item(f"{work.lora_slots} LoRA slots of rank {work.export_rank}", slots),
        Item("CUDA graphs (a guess)", graphs),
    )
    return MemoryPlan(
        resident=resident,
        training=training,
        old_log_probs=old_log_probs,
        sync=(*weights, Item("exports and the transfer's bucket", sync_bytes(model, work))),
        rollout=(*weights, Item("KV cache", kv_cache)),
        kv_per_token=per_token,
        kv_cache=kv_cache,
        kv_needed=float(work.max_num_seqs * work.max_model_len * per_token),
        device=work.device_bytes,
    )
