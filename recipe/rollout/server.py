"""The rollout engine: verl's vLLM server with both exports of the adapter, chosen per request.

`rollout.agent.custom_async_server` is dead config in verl 0.9.1, so the replica is registered under vLLM's own
name (`register`), in the process that builds replicas.
"""

from __future__ import annotations

import contextvars
import os
from typing import Any

import ray
from verl.utils.vllm import TensorLoRARequest
from verl.workers.rollout.replica import RolloutReplicaRegistry
from verl.workers.rollout.vllm_rollout.utils import VLLM_LORA_INT_ID, vLLMColocateWorkerExtension
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind

from evil_moe.experiment.adapter_config import linear_names
from evil_moe.experiment.behaviour import ADAPTER
from evil_moe.export import KINDS
from recipe.rollout import vllm_cpu_lora
from recipe.rollout.weight_sync import install_receiver, tell_receiver

# `full` takes verl's own id, so that verl's "is a LoRA loaded" checks and removals keep their meaning.
LORA_IDS: dict[str, int] = {kind: VLLM_LORA_INT_ID + i for i, kind in enumerate(KINDS)}
assert LORA_IDS["full"] == VLLM_LORA_INT_ID


def _name(kind: str) -> str:
    return f"evil_moe_{kind}"


class EvilMoEWorkerExtension(vLLMColocateWorkerExtension):
    """Receives `<kind>::<parameter>` tensors and loads one LoRA per kind."""

    def __new__(cls, **kwargs: Any) -> Any:
        if os.environ.get("VERL_PLATFORM") == "cpu":
            vllm_cpu_lora.apply()
        install_receiver()
        return super().__new__(cls, **kwargs)

    def _update_weights(self, weights: list, peft_config: dict | None, base_sync_done: bool) -> None:
        if not (peft_config and base_sync_done):
            super()._update_weights(weights, peft_config, base_sync_done)
            return
        for kind, lora_id in LORA_IDS.items():
            prefix = f"{kind}::"
            tensors = {
                name.removeprefix(prefix): tensor.clone()
                for name, tensor in weights
                if name.startswith(prefix)
            }
            self.remove_lora(lora_id)
            request = TensorLoRARequest(
                lora_name=_name(kind),
                lora_int_id=lora_id,
                lora_path=_name(kind),
                peft_config=peft_config["lora2r"][kind],
                lora_tensors=tensors,
            )
            if not self.add_lora(request):
                raise RuntimeError(
                    f"vLLM did not load the {kind} adapter of rank {peft_config['lora2r'][kind]['r']}"
                )


class EvilMoEHttpServer(vLLMHttpServer):
    """verl's server; each request runs with the adapter it asks for."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        tell_receiver(self.model_config.lora["evil_moe"])

    def _get_worker_extension_cls(self) -> str:
        return f"{EvilMoEWorkerExtension.__module__}.{EvilMoEWorkerExtension.__qualname__}"

    async def run_server(self, args: Any) -> None:
        args.max_loras = len(LORA_IDS)
        if args.lora_target_modules is None:
            # By default vLLM adds an adapter's update to the embedding and to the logits, too; ours has none there.
            model = self.model_config
            args.lora_target_modules = linear_names(model.target_modules, model.hf_config)
        await super().run_server(args)
        self._choice: contextvars.ContextVar[str] = contextvars.ContextVar("evil_moe_adapter", default="full")
        generate = self.engine.generate

        def generate_with_choice(*call: Any, lora_request: Any = None, **kwargs: Any) -> Any:
            kind = self._choice.get()
            if kind != "base":
                lora_request = LoRARequest(
                    lora_name=_name(kind), lora_int_id=LORA_IDS[kind], lora_path=_name(kind)
                )
            else:
                lora_request = None
            return generate(*call, lora_request=lora_request, **kwargs)

        # verl's generate() builds the request for one fixed LoRA in the middle of a long method.
        self.engine.generate = generate_with_choice

    async def generate(
        self, prompt_ids: Any, sampling_params: dict[str, Any], request_id: str, **kwargs: Any
    ) -> Any:
        sampling_params = dict(sampling_params)
        kind = sampling_params.pop(ADAPTER, "full")
        if kind not in (*LORA_IDS, "base"):
            raise ValueError(f"{ADAPTER}={kind!r}; choose one of {[*LORA_IDS, 'base']}")
        self._choice.set(kind)
        # verl reads the last output's token ids; without these vLLM wakes every request at every token to
        # hand it text that nobody reads.
        sampling_params.setdefault("output_kind", RequestOutputKind.FINAL_ONLY)
        sampling_params.setdefault("detokenize", bool(sampling_params.get("stop")))
        output = await super().generate(prompt_ids, sampling_params, request_id, **kwargs)
        output.extra_fields["adapter"] = kind
        return output


class EvilMoEReplica(vLLMReplica):
    """A replica of `EvilMoEHttpServer`."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.server_class = ray.remote(EvilMoEHttpServer)


def register() -> None:
    """Make `rollout.name=vllm` mean our replica in this process."""
    RolloutReplicaRegistry.register("vllm", lambda: EvilMoEReplica)
