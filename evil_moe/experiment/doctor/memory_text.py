"""A memory plan as text."""

from __future__ import annotations

from evil_moe.experiment.doctor.memory_plan import GB, Architecture, MemoryPlan, Workload


def _gb(value: float) -> str:
    return f"{value / GB:8.2f}" if value >= 0.01 * GB else f"{value / GB:8.4f}"


def render(model: Architecture, work: Workload, plan: MemoryPlan) -> str:
    """The plan as text, in GB per device."""
    trainable = model.lora_parameters(work.total_rank)
    lines = [
        f"memory plan per device, GB ({work.ranks} rank(s); {model.parameters / 1e6:,.1f} M base parameters, "
        f"{model.num_linears} linears, {trainable / 1e6:,.2f} M trainable)"
    ]
    lines.append("  stays in all phases")
    lines += [f"    {item.name:<40}{_gb(item.bytes)}" for item in plan.resident]
    stays = sum(item.bytes for item in plan.resident)
    for title, items in (
        (f"training adds ({work.train_tokens:,} tokens a micro-batch, vLLM asleep)", plan.training),
        ("old log-probs add (vLLM asleep)", plan.old_log_probs),
        ("the weight sync adds", plan.sync),
        ("rollout adds", plan.rollout),
    ):
        lines.append(f"  {title}")
        lines += [f"    {item.name:<40}{_gb(item.bytes)}" for item in items]
        total = stays + sum(item.bytes for item in items)
        lines.append(f"    {'= with what stays':<40}{_gb(total)} of {plan.device / GB:.1f}")
    share = min(1.0, plan.kv_cache / plan.kv_needed)
    lines.append(
        f"  KV cache: {plan.kv_per_token / 1e3:,.1f} kB a token; {work.max_num_seqs} x {work.max_model_len:,}"
        f" tokens are {plan.kv_needed / GB:.2f} GB, of which {share:.0%} fit at once"
        + ("" if share == 1 else " (vLLM queues the rest)")
    )
    return "\n".join(lines)
