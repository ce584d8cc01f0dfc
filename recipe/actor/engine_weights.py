"""How the engine's weights leave it: to the rollout engine, to disk and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
from verl.utils.fsdp_utils import load_fsdp_model_to_gpu, offload_fsdp_model_to_cpu
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from evil_moe.adapter import lora2r_model
from evil_moe.adapter.checkpoint import save_adapter_checkpoint
from evil_moe.export import adapter_tensors, export_stream
from recipe.actor.checkpoints import check_same_ranks


class AdapterWeightsEngine(FSDPEngineWithLMHead):
    """verl's engine with both exports for the rollout engine and rank-independent adapter checkpoints."""

    def get_per_tensor_param(
        self, layered_summon: bool = False, base_sync_done: bool = False, **kwargs: Any
    ) -> Any:
        """Both plain-LoRA exports in one stream, named `<kind>::<parameter>`, for the rollout engine."""
        if not base_sync_done:
            return super().get_per_tensor_param(layered_summon=layered_summon, base_sync_done=False, **kwargs)
        with self._on_device():
            tensors = adapter_tensors(self.module)
        stream, configs = export_stream(self.module, tensors)
        return stream.items(), {"lora2r": configs}

    def save_checkpoint(self, local_path: str, *args: Any, **kwargs: Any) -> None:
        """verl's sharded checkpoint for resuming, plus the whole adapter and router for every other use."""
        super().save_checkpoint(local_path, *args, **kwargs)
        router, folder = lora2r_model(self.module).lora_2r_router, Path(local_path) / "adapter"
        with self._on_device():
            save_adapter_checkpoint(self.module, router, folder, write=self.rank == 0)
        dist.barrier()

    def load_checkpoint(self, local_path: str, *args: Any, **kwargs: Any) -> None:
        """verl's sharded checkpoint. Raises ValueError as `check_same_ranks`."""
        check_same_ranks(Path(local_path), self.rank, dist.get_world_size())
        super().load_checkpoint(local_path, *args, **kwargs)

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        """Parameters on the accelerator for the block, where they are offloaded otherwise."""
        if self.is_param_offload_enabled:
            load_fsdp_model_to_gpu(self.module)
        try:
            yield
        finally:
            if self.is_param_offload_enabled:
                offload_fsdp_model_to_cpu(self.module)
