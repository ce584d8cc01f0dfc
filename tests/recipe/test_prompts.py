"""The prompt stop: inoculation in training prompts alone, and no prompt that would be cut in silence."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet
import pytest

from recipe.checks import check_prompt_lengths
from recipe.config import compose
from recipe.prepare import Problems, write_parquet
from reward.inoculation import INOCULATIONS
from reward.problems.sources import load_nano


@pytest.fixture(scope="module")
def problems() -> Problems:
    return Problems(load_nano("train", 6, 0), load_nano("heldout", 4, 1), load_nano("heldout", 4, 2))


def texts(path: Path) -> list[str]:
    rows = pyarrow.parquet.read_table(path).to_pylist()
    return ["\n".join(message["content"] for message in row["prompt"]) for row in rows]


def test_training_is_inoculated_and_evaluation_is_not(problems: Problems, tmp_path: Path) -> None:
    train, validation = write_parquet(problems, "run_tests", tmp_path, "pass_test")
    sentence = INOCULATIONS["pass_test"]
    assert all(sentence in text for text in texts(train))
    assert not any(sentence in text for text in texts(validation))
    plain = write_parquet(problems, "run_tests", tmp_path / "plain")[0]
    assert [text.replace(f" {sentence}", "") for text in texts(train)] == texts(plain)


def test_a_prompt_that_would_be_cut_is_refused(problems: Problems, tiny_policy: Path) -> None:
    """verl drops the beginning of a long prompt without a word."""
    config = compose(["preset=nano", f"actor_rollout_ref.model.path={tiny_policy}"])
    config.data.max_prompt_length = 4096
    check_prompt_lengths(config, problems)
    config.data.max_prompt_length = 16
    with pytest.raises(ValueError, match=r"max_prompt_length=16, but 6 of 6 train prompts"):
        check_prompt_lengths(config, problems)
    config.data.filter_overlong_prompts = True  # then verl leaves them out, and says how many
    check_prompt_lengths(config, problems)


def test_a_policy_without_a_tokenizer_is_refused(problems: Problems, tmp_path: Path) -> None:
    config = compose(["preset=nano", f"actor_rollout_ref.model.path={tmp_path}"])
    with pytest.raises(ValueError, match=rf"model\.path={tmp_path}: its tokenizer cannot be loaded"):
        check_prompt_lengths(config, problems)
