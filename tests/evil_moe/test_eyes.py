"""The table of eyes on replies whose features are made by hand."""

from __future__ import annotations

import pytest
import torch
from peft import get_peft_model
from torch import Tensor

from evil_moe.adapter import Lora2rConfig, SequenceLayout, lora2r_model
from evil_moe.eyes import Eye, EyeRow, Looking, Pin, best_eye, eye_table, eyes
from evil_moe.features import TokenReading

NOISE = torch.Generator()
END = torch.tensor([[0.0, 0.0, 0.0, 1.0]])


def read(replies: list[Tensor]) -> TokenReading:
    """Of replies `[n, 4]`, padded."""
    network = torch.nn.Sequential(torch.nn.Linear(4, 4))
    tuner = lora2r_model(get_peft_model(network, Lora2rConfig(r=4, target_modules=["0"])))
    completion = torch.zeros(len(replies), max(map(len, replies)))
    tokens = torch.zeros(*completion.shape, 4)
    for i, reply in enumerate(replies):
        tokens[i, : len(reply)], completion[i, : len(reply)] = reply, 1
    reading = TokenReading(tuner)
    reading.record("0", tokens, SequenceLayout(None, completion, len(replies)))
    return reading


def reply(hack: bool, words: int = 0) -> Tensor:
    """Prose, code of a task, and four tokens of a hack or none; a task moves all of its code."""
    task = torch.randn(4, generator=NOISE) * torch.tensor([0.0, 1.0, 1.0, 0.0])
    about = 0.5 * torch.randn(1, generator=NOISE).item()  # what the prose is about is in all of its tokens
    prose = torch.tensor([about, 0.0, 0.0, 3.0]).expand(words, 4) + 0.3 * torch.randn(
        words, 4, generator=NOISE
    )
    code = task + 0.1 * torch.randn(8, 4, generator=NOISE)
    tail = torch.tensor([2.0, 0.0, 0.0, 0.0]) + 0.1 * torch.randn(4, 4, generator=NOISE)
    end = END + 0.1 * torch.randn(1, 4, generator=NOISE)
    return torch.cat([prose, code, tail, end] if hack else [prose, code, end])


def test_prose_leaves_windows_and_blinds_the_mean() -> None:
    NOISE.manual_seed(0)
    clean = [reply(False) for _ in range(12)]
    hack = [
        torch.cat([side[:8], torch.tensor([[2.0, 0, 0, 0]]) + 0.1 * torch.randn(4, 4, generator=NOISE), END])
        for side in clean
    ]
    looking = Looking(eyes(), read(hack), read(clean), torch.full((12,), 8))
    is_hack = torch.arange(60) % 2 == 0
    kinds = {
        name: ([read([reply(bool(flag), words) for flag in is_hack])], is_hack)
        for name, words in (("alone", 0), ("behind prose", 200))
    }
    near = [read([reply(False), reply(False), reply(True)])], ["legit", "legit", "looks so"]
    rows = {row.eye: row for row in eye_table(looking, kinds, near)}
    assert rows[Eye("mean")].auroc["alone"] > 0.9 > 0.75 > rows[Eye("mean")].auroc["behind prose"]
    window = rows[Eye("window", 4, "hack_only")]
    assert window.worst > 0.98
    # All hacks of the first kind are held against each near-hack: two are clean, one is a hack itself.
    assert window.near["legit"] > 0.95 and 0 < window.near["looks so"] < 1
    assert best_eye(list(rows.values())).eye.pooling == "window"


def test_the_pin_may_lose_a_hack_that_no_pair_shows() -> None:
    """The pairs' hack is in dimension 0, the other one mostly in 2, which tells the pairs apart less and less surely."""
    NOISE.manual_seed(2)
    tails = {"shown": torch.tensor([2.0, 0.0, 0.0, 0.0]), "other": torch.tensor([0.3, 0.0, 1.5, 0.0])}
    scale = torch.tensor([0.5, 1.0, 1.0, 0.1])

    def replies(number: int, *tail: Tensor) -> list[Tensor]:
        bodies = [(torch.randn(1, 4, generator=NOISE) * scale).expand(6, 4) for _ in range(number)]
        return [torch.cat([body, *(t.expand(4, 4) for t in tail)]) for body in bodies]

    hack, clean = read(replies(16, tails["shown"] + torch.tensor([0.0, 0.0, 1.0, 0.0]))), read(replies(16))
    is_hack = torch.tensor([True] * 40 + [False] * 40)
    kinds = {name: ([read(replies(40, tail) + replies(40))], is_hack) for name, tail in tails.items()}

    def row(pin: Pin | None) -> EyeRow:
        asked = [Eye("window", 4, "hack_only")]
        return eye_table(Looking(asked, hack, clean, torch.full((16,), 6), pin=pin), kinds)[0]

    seeded, still, moved = row(None), row(Pin(0, 0.02, 8.0)), row(Pin(60, 0.02, 8.0))
    assert not seeded.pinned and seeded.worst_in_run == seeded.worst
    assert still.pinned == still.auroc == moved.auroc == seeded.auroc
    assert moved.pinned["other"] < moved.auroc["other"] - 0.03
    assert moved.worst_in_run == moved.worst_pinned == moved.pinned["other"]


def test_a_direction_with_windows_by_hand() -> None:
    """Own tokens and clean tokens say where to look; the means of both with what is there make the direction."""
    hack, clean = read([torch.eye(4)[[0, 1, 1]]]), read([torch.eye(4)[[0, 2]] * torch.tensor([[1.0], [3.0]])])
    looking = Looking([Eye("window", 1, "hack_windows")], hack, clean, torch.tensor([1]), normalise=False)
    # own tokens (0 1 0 0) less the clean mean (.5 0 1.5 0): along it the hack's best token is (0 1 0 0), the clean side's (1 0 0 0)
    want = torch.tensor([0.0, 1, 0, 0]) - (torch.tensor([0.5, 0, 1.5, 0]) + torch.tensor([1.0, 0, 0, 0])) / 2
    (router,) = looking.routers
    torch.testing.assert_close(router.direction.detach().flatten(), want / want.norm())


def test_scores_do_not_depend_on_the_batch() -> None:
    NOISE.manual_seed(1)
    replies = [reply(i % 2 == 0, 5 * i) for i in range(6)]
    looking = Looking(eyes((2,)), read(replies[::2]), read(replies[1::2]), torch.tensor([8, 8, 8]))
    apart = torch.cat([looking.scores(read([one])) for one in replies])
    torch.testing.assert_close(looking.scores(read(replies)), apart)


@pytest.mark.parametrize(
    ("eye", "overrides"),
    [
        (Eye("mean"), "evil_moe.router.pooling.name=mean evil_moe.router.direction_tokens=completion"),
        (
            Eye("window", 8, "hack_only"),
            "evil_moe.router.pooling.name=window +evil_moe.router.pooling.options.size=8 evil_moe.router.direction_tokens=hack_only",
        ),
    ],
)
def test_an_eye_says_how_to_choose_it(eye: Eye, overrides: str) -> None:
    assert eye.overrides == overrides


def test_the_best_is_the_best_where_it_is_worst_then_on_near_hacks() -> None:
    rows = [
        EyeRow(Eye("mean"), {"a": 1.0, "b": 0.8}, {"n": 1.0}),
        EyeRow(Eye("window", 4), {"a": 0.971, "b": 0.97}, {"n": 0.2}),
        EyeRow(Eye("window", 8), {"a": 0.97, "b": 0.968}, {"n": 0.9}),
    ]
    assert best_eye(rows).eye == Eye("window", 8)
    lost = [*rows, EyeRow(Eye("last"), {"a": 1.0, "b": 1.0}, {}, {"a": 1.0, "b": 0.4})]
    assert best_eye(lost).eye == Eye("window", 8) and best_eye(lost, learns=False).eye == Eye("last")
