"""The prompt stop: inoculation in training prompts alone, and no prompt that would be cut in silence."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pyarrow.parquet
import pytest
from omegaconf import DictConfig
from transformers import AutoTokenizer
from verl.utils.dataset.rl_dataset import RLHFDataset

from evil_moe.experiment.assets.problems import Problems, verl_rows, write_parquet
from evil_moe.experiment.config import compose
from evil_moe.experiment.prompt_checks import check_prompts
from reward.inoculation import INOCULATIONS
from reward.problems.sources import load_nano

SHORT = ("data.train_batch_size=2", "trainer.total_training_steps=3")


@pytest.fixture(scope="module")
def problems() -> Problems:
    return Problems(load_nano("train", 6, 0), load_nano("heldout", 4, 1), load_nano("heldout", 4, 2))


def texts(path: Path) -> list[str]:
    rows = pyarrow.parquet.read_table(path).to_pylist()
    return ["\n".join(message["content"] for message in row["prompt"]) for row in rows]


def prompt_lengths(problems: Problems, policy: Path) -> list[int]:
    tokenizer = AutoTokenizer.from_pretrained(policy)
    prompts = [row["prompt"] for row in verl_rows(problems, "run_tests", "none")["train"]]
    return [
        len(tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"])
        for prompt in prompts
    ]


def left_by_verl(config: DictConfig, problems: Problems, policy: Path) -> int:
    """Training prompts that verl's own data set keeps."""
    with tempfile.TemporaryDirectory() as scratch:
        train, _ = write_parquet(problems, "run_tests", Path(scratch))
        return len(RLHFDataset(str(train), AutoTokenizer.from_pretrained(policy), config.data))


def test_training_is_inoculated_and_evaluation_is_not(problems: Problems, tmp_path: Path) -> None:
    train, validation = write_parquet(problems, "run_tests", tmp_path, "pass_test")
    sentence = INOCULATIONS["pass_test"]
    assert all(sentence in text for text in texts(train))
    assert not any(sentence in text for text in texts(validation))
    plain = write_parquet(problems, "run_tests", tmp_path / "plain")[0]
    assert [text.replace(f" {sentence}", "") for text in texts(train)] == texts(plain)


def test_a_prompt_that_would_be_cut_is_refused(problems: Problems, tiny_policy: Path) -> None:
    """verl drops the beginning of a long prompt, and warns in a worker's log alone."""
    config = compose(["preset=nano", f"actor_rollout_ref.model.path={tiny_policy}", *SHORT])
    config.data.max_prompt_length, said = 4096, list[str]()
    check_prompts(config, problems, said.append)
    config.data.max_prompt_length = 16
    with pytest.raises(ValueError, match=r"max_prompt_length=16, but 6 of 6 train prompts"):
        check_prompts(config, problems, said.append)
    config.data.filter_overlong_prompts = True
    with pytest.raises(ValueError, match=r"6 of 6 train prompts .* leaves none: raise it"):
        check_prompts(config, problems, said.append)
    assert said == []


def test_steps_are_counted_without_the_prompts_that_are_left_out(
    problems: Problems, tiny_policy: Path
) -> None:
    config = compose(["preset=nano", f"actor_rollout_ref.model.path={tiny_policy}", *SHORT])
    config.data.filter_overlong_prompts, said = True, list[str]()
    lengths = sorted(prompt_lengths(problems, tiny_policy))
    config.data.max_prompt_length = lengths[-2]  # all fit but the longest
    with pytest.raises(
        ValueError, match=r"steps=3, but 1 pass\(es\) over 5 training problems, 2 a step, give 2"
    ):
        check_prompts(config, problems, said.append)
    config.trainer.total_training_steps = 2
    check_prompts(config, problems, said.append)
    assert said[-1].startswith(
        f"data.max_prompt_length={lengths[-2]}, but 1 of 6 train prompts are longer, up to {lengths[-1]}"
    )
    assert said[-1].endswith("they are left out (data.filter_overlong_prompts), 5 stay")
    assert left_by_verl(config, problems, tiny_policy) == 5


@pytest.mark.parametrize("source", ["generation_config", "config", "tokenizer"])
def test_a_policy_that_does_not_stop_where_its_template_ends_a_turn_is_refused(
    source: str, problems: Problems, tiny_policy: Path, tmp_path: Path
) -> None:
    """A base model with a ChatML template: nothing stops it at <|im_end|>, and its replies run on."""
    folder = tmp_path / "base"
    shutil.copytree(tiny_policy, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token, end = tokenizer.pad_token, tokenizer.eos_token_id
    tokenizer.save_pretrained(folder)
    stated = folder / "generation_config.json"
    stated.write_text(json.dumps({"eos_token_id": tokenizer.eos_token_id}))
    config = compose(["preset=nano", f"actor_rollout_ref.model.path={folder}", *SHORT])
    config.data.max_prompt_length = 4096
    with pytest.raises(
        ValueError, match=rf"'<\|im_end\|>' \({end}\), and generation stops at '<\|endoftext\|>' \(0\) alone"
    ):
        check_prompts(config, problems, print)
    if source == "generation_config":
        stated.write_text(json.dumps({"eos_token_id": [0, end]}))
    elif source == "config":
        stated.unlink()  # then vLLM goes by the model's own, which has it
    else:
        tokenizer.eos_token = "<|im_end|>"
        tokenizer.save_pretrained(folder)
    check_prompts(config, problems, print)


def test_a_policy_without_a_tokenizer_is_refused(problems: Problems, tmp_path: Path) -> None:
    config = compose(["preset=nano", f"actor_rollout_ref.model.path={tmp_path}"])
    with pytest.raises(ValueError, match=rf"model\.path={tmp_path}: its tokenizer cannot be loaded"):
        check_prompts(config, problems, print)
