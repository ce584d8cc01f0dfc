"""What the policy's tokenizer must have to do with a run's prompts: loaded before Ray and vLLM are started."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from evil_moe.chat import prompt_text
from evil_moe.experiment.assets.problems import Problems, verl_rows
from evil_moe.experiment.config_checks import check_steps
from evil_moe.turn_end import check_turn_end


def check_prompts(config: Any, problems: Problems, progress: Callable[[str], None]) -> None:
    """That replies end where the chat template ends them, that no prompt is cut, and that those which are left out for their
    length leave enough.

    verl cuts a prompt that is too long from the left, the instructions that is, with one warning in a worker's log; with
    `data.filter_overlong_prompts` it leaves it out when its data set is read, after all else has been checked.

    Raises:
        ValueError: a prompt exceeds `data.max_prompt_length`, and `data.filter_overlong_prompts` is off; or too few are left
            for the steps; or generation does not stop at the template's end of a turn, or the policy has no tokenizer that can
            be loaded.
    """
    tokenizer, template = load_tokenizer(config), dict(config.data.apply_chat_template_kwargs)
    check_turn_end(tokenizer, template, stop_ids(config.actor_rollout_ref.model.path))
    settings, limit = config.evil_moe, int(config.data.max_prompt_length)
    left = {}
    for name, rows in verl_rows(problems, settings.loophole, settings.prompt.inoculation).items():
        texts = [prompt_text(tokenizer, row["prompt"], template) for row in rows]
        lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
        over = sum(length > limit for length in lengths)
        left[name] = len(lengths) - over
        if not over:
            continue
        longer = f"data.max_prompt_length={limit}, but {over} of {len(lengths)} {name} prompts are longer, up to {max(lengths)} tokens"
        room = "raise it (and actor_rollout_ref.rollout.max_model_len, which has to hold prompt and response)"
        if not config.data.filter_overlong_prompts:
            raise ValueError(f"{longer}: {room}, or set data.filter_overlong_prompts=true")
        if not left[name]:
            raise ValueError(f"{longer}, and data.filter_overlong_prompts=true leaves none: {room}")
        progress(f"{longer}: they are left out (data.filter_overlong_prompts), {left[name]} stay")
    check_steps(config, left["train"])


def load_tokenizer(config: Any) -> Any:
    """The policy's tokenizer, as verl has it.

    Raises:
        ValueError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    model = config.actor_rollout_ref.model
    try:
        tokenizer = AutoTokenizer.from_pretrained(model.path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"actor_rollout_ref.model.path={model.path}: its tokenizer cannot be loaded ({str(error).splitlines()[0]}); give a "
            f"folder with a whole model, or the name of one on the hub: hf download {model.path}"
        ) from error
    if model.custom_chat_template is not None:
        tokenizer.chat_template = model.custom_chat_template
    return tokenizer


def stop_ids(path: str) -> list[int]:
    """Tokens at which vLLM stops by the policy's generation config or, where it has none, its config."""
    from transformers import AutoConfig, GenerationConfig

    try:
        found = GenerationConfig.from_pretrained(path).eos_token_id
    except OSError:
        found = GenerationConfig.from_model_config(AutoConfig.from_pretrained(path)).eos_token_id
    return [] if found is None else found if isinstance(found, list) else [found]
