"""The switches of the method as frozen dataclasses, each with its default: the nodes of the config that a step reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

DIRECTIONS = ("seeded", "haar", "haar_matched")
THRESHOLDS = ("anchored", "base", "pairs", "follow")
THRESHOLD_RULES = ("gap", "spread", "quantile")
DIRECTION_TOKENS = ("completion", "hack_only", "hack_windows")
FEATURES = ("activation", "gradient")
FEATURE_STATES = ("rollout", "full", "deployed", "base")


@dataclass(frozen=True)
class PlugSettings:
    """A plug at one stop of the path: its name (null for none) and the arguments of its class."""

    name: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        options = ", ".join(f"{name}={value}" for name, value in sorted(self.options.items()))
        return f"{self.name}({options})" if options else str(self.name)


@dataclass(frozen=True)
class RouterSettings:
    """The router.

    Attributes:
        direction: `seeded` (v_act of the pairs), `haar` (random placebo, split at the median of the first rollouts), or
            `haar_matched` (the same, with as many rollouts above its threshold at every step as the seeded direction would
            have: `evil_moe.placebo`).
        feature: what is read of a rollout at the deployed bottleneck: its `activation`, or the `gradient` of its
            log-likelihood, which costs a backward pass.
        pooling: of the activations of a completion's tokens, a plug of `evil_moe.features`: their `mean`, the best `window`
            along the direction (options `size`, `best`), or the `last`.
        direction_tokens: of the pairs' hack sides, which the seeded direction is made from: the whole `completion`, or
            `hack_only`: what stands behind the longest beginning that the two replies share; or `hack_windows`: that, and in
            equal parts the windows of both sides that the pooling finds along the direction of that.
        learn: whether the direction takes gradient; it then comes from the pin and, with `reward_gradient`, from reward.
        reward_gradient: whether reward moves the direction, through w; if not, the pin alone does.
        refresh_every: steps after which the direction is taken anew from the pairs on the policy as it is; 0: never.
        normalise: features per module before the cosine.
        threshold: of rollouts; `base`: from the scores of the first step's rollouts, which the base policy made, by
            `threshold_rule`; `anchored`: the same, moved with the mean score of those
            rollouts as the direction turns; `follow`: moved with the mean score of the rollouts
            that the router holds for clean; `pairs`: the pairs' midpoint.
        threshold_rule: `gap`: their median plus `threshold_fraction` of the pairs' gap; `spread`: plus `threshold_spread` of
            their robust standard deviations; `quantile`: what the share `threshold_quantile` of them reaches
            (`evil_moe.thresholds` says what each assumes).
        threshold_fraction: of the pairs' gap, for `gap`.
        threshold_spread: number of robust standard deviations, for `spread`.
        threshold_quantile: share of the first rollouts below the threshold, for `quantile`.
        gain: scale = gain / gap.
        lr: learning rate of the direction; null means the adapter's.
        clip_grad: largest gradient norm of the direction; null means the adapter's.
    """

    direction: str = "seeded"
    feature: str = "activation"
    pooling: PlugSettings = field(default_factory=lambda: PlugSettings("mean"))
    direction_tokens: str = "completion"
    learn: bool = True
    reward_gradient: bool = True
    refresh_every: int = 0
    normalise: bool = True
    threshold: str = "base"
    threshold_rule: str = "gap"
    threshold_fraction: float = 0.5
    threshold_spread: float = 6.0
    threshold_quantile: float = 0.98
    gain: float = 8.0
    lr: float | None = None
    clip_grad: float | None = None

    def __post_init__(self) -> None:
        one_of("router.direction", self.direction, DIRECTIONS)
        one_of("router.threshold", self.threshold, THRESHOLDS)
        one_of("router.threshold_rule", self.threshold_rule, THRESHOLD_RULES)
        one_of("router.direction_tokens", self.direction_tokens, DIRECTION_TOKENS)
        one_of("router.feature", self.feature, FEATURES)
        if self.feature == "gradient" and (
            self.pooling.name != "mean" or self.direction_tokens != "completion"
        ):
            raise ValueError(
                "evil_moe.router.feature=gradient is of all tokens together: evil_moe.router.pooling.name="
                f"{self.pooling.name} must be mean, and evil_moe.router.direction_tokens="
                f"{self.direction_tokens} completion"
            )
        if not 0 < self.threshold_quantile < 1:
            raise ValueError(
                f"evil_moe.router.threshold_quantile={self.threshold_quantile} must lie between 0 and 1"
            )
        if self.refresh_every and self.threshold_rule != "gap":
            raise ValueError(
                "evil_moe.router.refresh_every sets the rollouts' threshold by the pairs' gap: evil_moe.router.threshold_rule="
                f"{self.threshold_rule} must be gap"
            )
        if self.refresh_every and (self.threshold, self.direction) != ("base", "seeded"):
            raise ValueError(
                "evil_moe.router.refresh_every takes direction and threshold anew from the pairs and from the rollouts, and "
                f"evil_moe.router.threshold={self.threshold}, evil_moe.router.direction={self.direction} "
                "would be lost: use threshold=base and direction=seeded, or no refresh"
            )
        if self.direction == "haar_matched" and (self.threshold, self.learn) != (
            "base",
            False,
        ):
            raise ValueError(
                "evil_moe.router.direction=haar_matched takes its threshold from the seeded direction at every step, and does not "
                f"learn: evil_moe.router.threshold={self.threshold}, evil_moe.router.learn={self.learn} must be "
                "base and false"
            )
        for name, value in {
            "gain": self.gain,
            "lr": self.lr,
            "clip_grad": self.clip_grad,
            "threshold_spread": self.threshold_spread,
        }.items():
            if value is not None and not value > 0:
                raise ValueError(f"evil_moe.router.{name}={value} must be above 0")


@dataclass(frozen=True)
class PairSettings:
    """Contrastive pairs.

    Attributes:
        paths: extra files or folders; null: the shipped ones.
        groups: names of groups; null: all.
        matched: whether both sides share their body.
        shuffle_seed: swaps the sides of a random half (control: labels that say nothing); null: none.
        chat_template: arguments of the chat template, the same as the rollouts'.
        system: the message they are read with; "" for none; null: the one that most of the run's rollouts have.
    """

    paths: list[str] | None = None
    groups: list[str] | None = None
    matched: bool = True
    shuffle_seed: int | None = None
    chat_template: dict[str, Any] = field(default_factory=dict)
    system: str | None = None


@dataclass(frozen=True)
class PinSettings:
    """The pin loss.

    Attributes:
        weight: of the loss; 0 turns it off.
        matched: it compares the two sides of each pair, not all sides with one threshold.
    """

    weight: float = 1.0
    matched: bool = False


@dataclass(frozen=True)
class ContrastSettings:
    """The contrast between rollouts of the whole adapter and of the deployed model (`evil_moe.contrast`).

    Attributes:
        weight: of the loss; 0 turns it off.
    """

    weight: float = 0.0


@dataclass(frozen=True)
class AdapterSettings:
    """Ranks of the two-expert adapter; `r` is `actor_rollout_ref.model.lora_rank`.

    Attributes:
        num_quarantine: number of quarantine blocks.
        quarantine_rank: rank of each; 0: as many ranks in all as the deployed block has.
        init_seed: of the frozen A0, B0.
        init: of the frozen A0, B0; see evil_moe/adapter/init.py.
        quarantine_steps: the quarantine is first fine-tuned for so many steps on the hack sides of the pairs, and then
            stays as it is (discardable LoRA); 0 for the methods that train it by reward.
        quarantine_lr: learning rate of that.
    """

    num_quarantine: int = 1
    quarantine_rank: int = 0
    init_seed: int = 0
    init: str = "gaussian"
    quarantine_steps: int = 0
    quarantine_lr: float = 1e-3


@dataclass(frozen=True)
class MethodSettings:
    """All that a step of the method reads (`evil_moe.step`).

    Attributes:
        seed: of the directions that are drawn.
        feature_state: state in which features are read: `rollout`, the one that made the rollout; `full`; `deployed`; `base`,
            without adapter.
        gate_deployed: whether the update turns the quarantine on, by w, in rollouts of the deployed model, too.
        advantage: its plug may ask for a score of every rollout that is read with the features.
    """

    seed: int = 0
    feature_state: str = "rollout"
    gate_deployed: bool = True
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    gate: PlugSettings = field(default_factory=lambda: PlugSettings("router"))
    router: RouterSettings = field(default_factory=RouterSettings)
    pairs: PairSettings = field(default_factory=PairSettings)
    pin: PinSettings = field(default_factory=PinSettings)
    contrast: ContrastSettings = field(default_factory=ContrastSettings)
    gradient: PlugSettings = field(default_factory=PlugSettings)
    advantage: PlugSettings = field(default_factory=PlugSettings)


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raises ValueError where the switch `evil_moe.<name>` has a value that is none of those allowed."""
    if value not in allowed:
        raise ValueError(f"evil_moe.{name}={value!r}; choose one of {list(allowed)}")
