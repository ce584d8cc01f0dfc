"""What a router sees on a real pretrained language model: hacks behind 400 words of prose, and honest tests beside vacuous ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from evil_moe import gguf_policy
from evil_moe.adapter import Lora2rConfig, lora2r_model
from evil_moe.eyes import Eye, Looking, eye_table
from evil_moe.features import TokenReading, WindowPooling
from evil_moe.gates import make_gate
from evil_moe.pairs import load_pairs
from evil_moe.router import Router
from evil_moe.thresholds import spread_rule
from recipe.pair_batch import PairBatch, tokenize_reply
from recipe.read_features import read_forwards
from reward.eye_cases import EYE_LOOPHOLES, eye_cases
from reward.legit_cases import legit_cases
from tests.evil_moe.test_gguf_policy import needs_smollm

COUNT = 60
MEAN, WINDOW = Eye("mean"), Eye("window", 8, "hack_only")


@needs_smollm
@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_windows_see_hacks_behind_prose_and_tell_honest_tests_from_vacuous(tmp_path: Path) -> None:
    folder = gguf_policy.gguf_policy(gguf_policy.smollm_file(), "bfloat16", tmp_path, print)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    model = get_peft_model(base, Lora2rConfig(r=8, task_type="CAUSAL_LM")).eval()
    batch = PairBatch(load_pairs(), tokenizer, {}, 0, 1)
    hack, clean = (
        next(read_forwards(model, sides, TokenReading, len(sides)))
        for sides in (batch.mine[: batch.num_pairs], batch.mine[batch.num_pairs :])
    )
    looking = Looking([MEAN, WINDOW], hack, clean, batch.own_starts[: batch.num_pairs])

    def readings(cases: list) -> list[TokenReading]:
        texts = [tokenize_reply(tokenizer, {}, case.messages, case.reply) for case in cases]
        return list(read_forwards(model, texts, TokenReading, 4, of_base=True))

    kinds = {}
    for words in (0, 400):
        for loophole in EYE_LOOPHOLES:
            cases = eye_cases(loophole, COUNT, seed=11, prose_words=words)
            kinds[f"{loophole}+{words}"] = readings(cases), torch.tensor([case.is_hack for case in cases])
    cases = [c for c in legit_cases(80, 11, loopholes=["run_tests"]) if c.kind == "honest_tests"]
    mean, window = eye_table(looking, kinds, (readings(cases), ["honest"] * len(cases)))
    print(mean, window, sep="\n")
    for loophole in EYE_LOOPHOLES:
        assert window.auroc[f"{loophole}+400"] >= 0.97 > 0.75 > mean.auroc[f"{loophole}+400"]
    assert window.near["honest"] >= 0.9

    # Length must not decide w: the same reply, with prose in front and without.
    router = Router(len(lora2r_model(model).lora2r_layers()), 8)
    v = looking.directions["hack_only"].unsqueeze(1)
    with torch.no_grad():
        router.direction.copy_(v)
    pooling = WindowPooling(8)
    of = lambda reading: reading.best_windows(router.eyes(), pooling.size)  # noqa: E731
    router.calibrate_on_pairs(of(hack), of(clean), v, gain=8.0)
    told = {
        words: torch.cat(
            [of(reading) for name in kinds if name.endswith(f"+{words}") for reading in kinds[name][0]]
        )
        for words in (0, 400)
    }
    clean_rows = ~torch.cat([kinds[f"{name}+0"][1] for name in EYE_LOOPHOLES])
    router.set_rollout_threshold(router.block_scores(told[400][clean_rows]), spread_rule(6.0))
    w = {
        words: make_gate("router").weight(router.rollout_signals(features))
        for words, features in told.items()
    }
    moved = (w[400] - w[0]).abs()
    print(
        "w moved by prose: mean", moved.mean(), "worst", moved.max(), "w on hacks", w[400][~clean_rows].mean()
    )
    assert moved.mean() < 0.05
