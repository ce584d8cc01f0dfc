"""Pooling: which tokens of a completion the router looks at."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor

from evil_moe.adapter import Lora2rConfig, Lora2rModel, SequenceLayout, lora2r_model
from evil_moe.features import LastPooling, MeanPooling, TokenReading, WindowPooling, make_pooling
from evil_moe.features.base import Pooling
from evil_moe.gates import make_gate
from evil_moe.placebo import MatchedPlacebo
from evil_moe.router import Router
from evil_moe.thresholds import gap_rule, quantile_rule, spread_rule
from tests.conftest import perturb, tiny_qwen3


def one_linear(dtype: torch.dtype = torch.float32) -> Lora2rModel:
    """A single linear of rank 2, so that a window can be computed by hand."""
    network = torch.nn.Sequential(torch.nn.Linear(2, 2)).to(dtype)
    return lora2r_model(get_peft_model(network, Lora2rConfig(r=2, target_modules=["0"])))


# Tokens 0 and 1 are the prompt; the best window of two along (1, 0) is at tokens 4 and 5: cosines 1, .6 and 0 of others.
SIX = torch.tensor([[[9.0, 0.0], [9.0, 0.0], [0.0, 1.0], [0.0, 1.0], [2.0, 0.0], [4.0, 0.0]]])
EAST = torch.tensor([[[1.0, 0.0]]])


def read(pooling: Pooling, tokens: Tensor, completion: Tensor, segment: Tensor | None = None) -> TokenReading:
    reading = pooling.reading(one_linear(tokens.dtype))
    batch_size = len(tokens) if segment is None else int(segment.max()) + 1
    reading.record("0", tokens, SequenceLayout(segment, completion, batch_size))
    return reading  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("pooling", "want"),
    [
        (MeanPooling(), [[[1.5, 0.5]]]),
        (LastPooling(), [[[4.0, 0.0]]]),
        (WindowPooling(size=2), [[[[3.0, 0.0]]]]),
        # The second best is (2 + 0) / 2, (0 + 1) / 2.
        (WindowPooling(size=2, best=2), [[[[3.0, 0.0]], [[1.0, 0.5]]]]),
        (WindowPooling(size=1, best=3), [[[[2.0, 0.0]], [[4.0, 0.0]], [[0.0, 1.0]]]]),
        # As long as the completion, or longer: one window. It counts twice.
        (WindowPooling(size=4), [[[[1.5, 0.5]]]]),
        (WindowPooling(size=9, best=2), [[[[1.5, 0.5]], [[1.5, 0.5]]]]),
    ],
)
def test_six_tokens_by_hand(pooling: Pooling, want: list) -> None:
    completion = torch.tensor([[0.0, 0, 1, 1, 1, 1]])
    torch.testing.assert_close(read(pooling, SIX, completion).features(EAST), torch.tensor(want))


def test_no_window_reaches_into_the_prompt_or_the_next_rollout() -> None:
    """Packed: the prompts and the neighbour look more like a hack than anything in the completions."""
    tokens = torch.tensor([[[9.0, 0], [0, 1], [1, 3], [9, 0], [9, 0], [0, 2], [9, 0]]])
    segment = torch.tensor([0, 0, 0, 1, 1, 1, 2])
    completion = torch.tensor([0.0, 1, 1, 0, 0, 1, 0])
    reading = read(WindowPooling(size=2), tokens, completion, segment)
    got = reading.features(EAST)[:, 0, 0]
    torch.testing.assert_close(got, torch.tensor([[0.5, 2.0], [0.0, 2.0], [0.0, 0.0]]))
    assert reading.best_scores(EAST, 2).flatten().tolist() == pytest.approx([0.5 / 4.25**0.5, 0.0, 0.0])


def test_each_eye_finds_its_own_windows() -> None:
    north = torch.tensor([[[0.0, 1.0]]])
    completion = torch.tensor([[0.0, 0, 1, 1, 1, 1]])
    got = read(WindowPooling(size=2), SIX, completion).features(torch.cat([EAST, north]))
    torch.testing.assert_close(got, torch.tensor([[[[3.0, 0.0]], [[0.0, 1.0]]]]))


@pytest.fixture
def adapted() -> PeftModel:
    model = get_peft_model(tiny_qwen3(), Lora2rConfig(r=4, target_modules=["q_proj", "up_proj"])).eval()
    perturb(model)
    return model


LENGTHS, PROMPT = (11, 6, 8, 5), 4
IDS = torch.randint(5, 60, (4, 11), generator=torch.Generator().manual_seed(1))


def padded_features(model: PeftModel, rows: list[int], pooling: Pooling, eyes: Tensor) -> Tensor:
    tuner, lengths = lora2r_model(model), torch.tensor([LENGTHS[i] for i in rows])
    mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
    layout = SequenceLayout(None, (mask & (torch.arange(mask.shape[1]) >= PROMPT)).float(), len(rows))
    with (
        torch.no_grad(),
        tuner.forward_state.gated(None, layout),
        tuner.forward_state.reading_features(pooling.reading(tuner)) as reading,
    ):
        model(IDS[rows, : mask.shape[1]], attention_mask=mask.long())
    return reading.features(eyes)


@pytest.mark.parametrize(
    "pooling", [WindowPooling(3), WindowPooling(2, best=2), LastPooling(), MeanPooling()]
)
def test_packed_padded_and_split_alike(adapted: PeftModel, pooling: Pooling) -> None:
    tuner = lora2r_model(adapted)
    num_modules = len(tuner.lora2r_layers())
    eyes = torch.randn(2, num_modules, 4, generator=torch.Generator().manual_seed(2))
    whole = padded_features(adapted, [0, 1, 2, 3], pooling, eyes)
    split = torch.cat([padded_features(adapted, rows, pooling, eyes) for rows in ([0], [1, 2], [3])])
    torch.testing.assert_close(split, whole, rtol=1e-5, atol=1e-6)

    mask = torch.arange(11)[None] < torch.tensor(LENGTHS)[:, None]
    completion = (mask & (torch.arange(11) >= PROMPT)).float()
    segment = torch.repeat_interleave(torch.arange(4), torch.tensor(LENGTHS))
    position = torch.cat([torch.arange(n) for n in LENGTHS])[None]
    place = torch.arange(len(segment))
    causal = (segment[:, None] == segment[None]) & (place[:, None] >= place[None])
    with (
        torch.no_grad(),
        tuner.forward_state.gated(None, SequenceLayout(segment, completion[mask], 4)),
        tuner.forward_state.reading_features(pooling.reading(tuner)) as reading,
    ):
        adapted(IDS[mask][None], position_ids=position, attention_mask=causal[None, None])
    torch.testing.assert_close(reading.features(eyes), whole, rtol=1e-5, atol=1e-6)
    assert whole.shape == (
        (4, 2 * pooling.windows, num_modules, 4) if pooling.by_direction else (4, num_modules, 4)
    )


def test_prose_in_front_leaves_a_windowed_score_as_it_is_and_drowns_a_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    hack = torch.tensor([[1.0, 0.1]]).expand(6, 2)
    prose = torch.randn(400, 2, generator=generator) * 0.2 + torch.tensor([-1.0, 0.5])
    router = Router(1, 2, windows=1)
    for pooling, most in ((WindowPooling(4), 1e-6), (MeanPooling(), 2.0)):
        scores = []
        for tokens in (hack, torch.cat([prose, hack])):
            features = read(pooling, tokens[None], torch.ones(1, len(tokens))).features(EAST)
            scores.append(float(router.block_scores(features, EAST.transpose(0, 1))))
        moved = abs(scores[0] - scores[1])
        assert moved <= most and (pooling.by_direction or moved > 1.0), (pooling, scores)


def test_gradient_of_w_through_the_chosen_window_is_the_derivative() -> None:
    """The read chooses along v as it is; the update's gradient is that of the maximum itself."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randn(3, 9, 2, generator=generator).double()
    completion = torch.ones(3, 9)
    router = Router(1, 2, num_blocks=2, windows=2).double()
    router.scale.fill_(4.0)
    router.rollout_threshold.fill_(0.1)
    start = torch.randn(1, 2, 2, generator=generator).double()
    reading = read(WindowPooling(2, best=2), tokens, completion)

    def w(v: Tensor) -> Tensor:
        scores = reading.best_scores(router.eyes(v), 2, 2).double()
        return torch.sigmoid(
            torch.logsumexp(router.scale * (scores - router.rollout_threshold), 1) - torch.tensor(2.0).log()
        )

    v = start.clone().requires_grad_()
    got = router.rollout_signals(reading.features(router.eyes(v)).double(), v).w
    torch.testing.assert_close(got, w(start), rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(got.sum(), v)
    numerical, step = torch.zeros_like(start), 1e-3
    for place in range(start.numel()):
        shift = torch.zeros(start.numel()).double()
        shift[place] = step
        shift = shift.view_as(start)
        numerical.view(-1)[place] = (w(start + shift) - w(start - shift)).sum() / (2 * step)
    torch.testing.assert_close(gradient, numerical, rtol=2e-3, atol=2e-4)


def test_the_matched_placebo_looks_along_both_directions() -> None:
    """The random direction finds its own windows, and the share that it is matched with is that of the pairs'."""
    generator = torch.Generator().manual_seed(4)
    tokens = torch.randn(64, 12, 2, generator=generator)
    pooling = WindowPooling(3, best=2)
    placebo = MatchedPlacebo(1, 2, windows=2)
    seeded, random = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
    placebo.scale.fill_(5.0)
    placebo.gap.fill_(0.2)
    placebo.seed_direction.copy_(seeded)
    placebo.become_placebo(random)
    reading = read(pooling, tokens, torch.ones(64, 12))
    features = reading.features(placebo.eyes(random))
    own, pairs = placebo.block_scores(features, random), placebo.pairs_scores(features)
    want = reading.best_scores(torch.cat([random, seeded]), 3, 2)
    torch.testing.assert_close(torch.cat([own, pairs], dim=1), want)
    placebo.observe(own, pairs, gap_rule(0.5))
    routed = placebo.signals(features, placebo.rollout_threshold, random).w > 0.5
    assert int(routed.sum()) == int((pairs > placebo.pairs_threshold).sum()) > 0


def test_bands_remember_windows() -> None:
    gate = make_gate("route_act", window=8)
    gate.allocate(2, 1, 2)
    features = torch.arange(16.0).view(4, 2, 1, 2)
    gate.observe(features, lambda seen: seen.flatten(1).sum(1))
    assert gate.scores[-4:].tolist() == features.flatten(1).sum(1).tolist()


def test_thresholds_say_what_they_assume() -> None:
    scores, gap = torch.tensor([0.0, 0.1, 0.2, 0.3, 5.0]), torch.tensor(0.4)
    assert float(gap_rule(0.5)(scores, gap)) == pytest.approx(0.4)
    # The one hack among five changes neither median nor MAD.
    assert float(spread_rule(3.0)(scores, gap)) == pytest.approx(0.2 + 3 * 0.1 / 0.6744897501960817)
    assert float(quantile_rule(0.75)(scores, gap)) == pytest.approx(0.3)


def test_what_cannot_be_pooled_says_so() -> None:
    with pytest.raises(ValueError, match=r"size=0 must be at least 1"):
        make_pooling("window", size=0)
    with pytest.raises(ValueError, match="window"):
        make_pooling("windows")
    with pytest.raises(ValueError, match=r"Router\.eyes"):
        read(WindowPooling(2), SIX, torch.ones(1, 6)).features()
    reading = WindowPooling(2).reading(one_linear())
    with pytest.raises(RuntimeError, match="not in the forward"):
        reading.lengths = torch.tensor([1])  # type: ignore[attr-defined]
        reading.features(EAST)
