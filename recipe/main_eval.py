"""Evaluation: every answer of every side in one vLLM batch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig

from evil_moe.experiment.evaluation.answers import Question


def generate(
    config: DictConfig, asked: Sequence[Question], exports: Mapping[str, Path | None]
) -> list[list[int]]:
    """Token ids of the answers, in the order of the questions; a side without an export is the base policy."""
    from transformers import AutoConfig
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    from evil_moe.experiment.adapter_config import linear_names
    from evil_moe.export import served_rank
    from recipe.rollout import vllm_cpu_lora

    rollout, model = config.actor_rollout_ref.rollout, config.actor_rollout_ref.model
    if config.trainer.device == "cpu":
        vllm_cpu_lora.apply()
    llm = LLM(
        model=model.path,
        dtype=rollout.dtype,
        enforce_eager=rollout.enforce_eager,
        enable_chunked_prefill=rollout.enable_chunked_prefill,
        max_num_batched_tokens=rollout.max_num_batched_tokens,
        max_model_len=rollout.max_model_len,
        max_num_seqs=rollout.max_num_seqs,
        gpu_memory_utilization=rollout.gpu_memory_utilization,
        tensor_parallel_size=rollout.tensor_model_parallel_size,
        enable_lora=True,
        max_loras=sum(path is not None for path in exports.values()),
        max_lora_rank=served_rank(model.lora.rank),
        lora_target_modules=linear_names(model.target_modules, AutoConfig.from_pretrained(model.path)),
        disable_log_stats=True,
    )
    requests = {
        side: LoRARequest(side, i + 1, os.fspath(path)) if path else None
        for i, (side, path) in enumerate(exports.items())
    }
    outputs = llm.generate(
        [{"prompt_token_ids": one.prompt_ids} for one in asked],
        [
            SamplingParams(
                temperature=rollout.val_kwargs.temperature,
                top_p=rollout.val_kwargs.top_p,
                top_k=rollout.val_kwargs.top_k,
                max_tokens=config.data.max_response_length,
                seed=one.seed,
            )
            for one in asked
        ],
        lora_request=[requests[one.side] for one in asked],
        use_tqdm=False,
    )
    return [list(output.outputs[0].token_ids) for output in outputs]
