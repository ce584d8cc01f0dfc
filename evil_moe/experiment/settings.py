"""The `evil_moe` node of the config as frozen dataclasses: every switch of the method, with its default.

The YAML files under `configs/` hold differences from these defaults only, and `configs/evil_moe.yaml` the switches of
policy, data and evaluation, which the method does not read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from evil_moe.experiment.monitor_settings import MonitorSettings
from evil_moe.settings import (
    FEATURE_STATES,
    AdapterSettings,
    ContrastSettings,
    MethodSettings,
    PairSettings,
    PinSettings,
    PlugSettings,
    RouterSettings,
    one_of,
)
from reward.reply import READINGS

OLD_LOG_PROBS = ("update", "gated", "sampled")
INITS = ("gaussian", "pissa", "corda", "signed_corda", "reversed_corda")
GATED_ON_POLICY = "gated_on_policy"
"""Name of our policy loss in verl's registry (`policy_loss.py`, beside the engine)."""


@dataclass(frozen=True)
class DetectorSettings:
    """The simulated detector whose flags the `label` gate reads, by one of two pairs of dials.

    Attributes:
        true_positive_rate: share of the hacks that it flags.
        false_positive_rate: share of the clean rollouts that it flags.
        precision: share of its flags that are hacks; with `recall`, instead of the rates.
        recall: share of the hacks that it flags.
    """

    true_positive_rate: float | None = None
    false_positive_rate: float | None = None
    precision: float | None = None
    recall: float | None = None


@dataclass(frozen=True)
class PromptSettings:
    """What is done to the training prompts; evaluation goes without.

    Attributes:
        inoculation: a name in `reward.inoculation`, or `none`.
    """

    inoculation: str = "none"


@dataclass(frozen=True)
class RolloutSettings:
    """Who samples, and what of it the update runs.

    Attributes:
        deployed_share: share of every prompt's rollouts that the deployed model samples; the rest is sampled with both
            blocks.
        gate_deployed: whether the update turns the quarantine on, by w, in rollouts of the deployed model, too. If not,
            it stays off in them, as it was when they were sampled, and those with w near 1 train nothing.
        warn_ratio: the line of a step warns where the gated policy of the update makes a token so many times as likely as
            the policy that sampled it did (`mismatch/ratio_max`); null: never. With `old_log_prob=update` the loss does not
            correct for it, its own ratio is 1.
        weight_sync_timeout_s: how long the adapters' way to vLLM may stand still, at any message, before the run ends.
    """

    deployed_share: float = 0.25
    gate_deployed: bool = True
    warn_ratio: float | None = 10.0
    weight_sync_timeout_s: float = 300.0


@dataclass(frozen=True)
class RewardSettings:
    """Terms of the reward, limits of the sandbox, and how many sandbox faults a run may have before it stops.

    Attributes:
        compile: reward of a program that compiles.
        pays: reward of a correct answer, or of the loophole.
        reply: how a reply's program is found, `markdown` or `benchmark` (`docs/grading.md`, "Reading a reply"); training,
            its validations and `evil-moe eval` read alike.
        cpu_s: CPU seconds of a program.
        wall_s: seconds by the clock.
        memory_mib: address space of a program.
        output_kib: of the values that an answer returns, beside what the expected ones take.
        recursion: Python's limit.
        packages: installed packages that answers may import; loaded when one is first named.
        workers: number of sandboxes.
        max_faults: sandbox faults after which the run stops.
        allow_weak: lets it run with less isolation than the minimum that `reward.sandbox.client` states.
    """

    compile: float = 0.5
    pays: float = 3.0
    reply: str = "markdown"
    cpu_s: float = 4.0
    wall_s: float = 15.0
    memory_mib: int = 1024
    output_kib: int = 8192
    recursion: int = 100_000
    packages: list[str] = field(default_factory=lambda: ["numpy", "sortedcontainers"])
    workers: int = 1
    max_faults: int = 20
    allow_weak: bool = False


@dataclass(frozen=True)
class EvilMoESettings:
    """Everything that is ours in a run's config.

    Attributes:
        arm: its name, in folders and reports.
        preset: name of policy, data and machine.
        seed: of data, warm start, sampling, adapter init and placebo direction.
        run_dir: the run's folder.
        feature_state: state in which features are read; `rollout` is the one that made the rollout, `base` has no adapter
            on, so that a text's features never change. One pass reads them and the log-probs: in another state than
            `rollout`, entropy and verl's comparison with vLLM's log-probs are of that state, too, and logged as
            `<state>_state/...`; `mismatch/...` compares the update's own log-probs in every state with those of the policy
            that sampled: the whole adapter, or the deployed model (`mismatch/ratio_max_full`, `mismatch/ratio_max_deployed`).
        old_log_prob: `update`: the ratio's denominator is the gated policy at the update itself, right with one
            update per batch; `gated`: one more forward stores it beforehand, needed by several mini-batches and
            by verl's rollout correction; `sampled`: the policy that sampled the token, so that PPO's clip also bounds
            what a rollout counts for that the gated policy would hardly make. vLLM's log-probs are those after top_p: with
            `rollout.top_p` below 1, as in the GPU presets, they and `mismatch/...` are off by what the cut left out.
        loophole: name in `reward.loopholes`, or several joined by `+`: problems take turns.
        variant: behind the preset's name in the folders of runs; where the command line sets another loophole than the
            preset's, it is `@` and that loophole, so that the two tasks share no folder.
        inputs: checksums of problems, pairs and probe, filled in at the start: a run that is resumed has the same.
    """

    arm: str = "router"
    preset: str = "nano"
    seed: int = 0
    loophole: str = "run_tests"
    variant: str = ""
    inputs: dict[str, str] = field(default_factory=dict)
    feature_state: str = "rollout"
    old_log_prob: str = "update"
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    gate: PlugSettings = field(default_factory=lambda: PlugSettings("router"))
    router: RouterSettings = field(default_factory=RouterSettings)
    pin: PinSettings = field(default_factory=PinSettings)
    contrast: ContrastSettings = field(default_factory=ContrastSettings)
    pairs: PairSettings = field(default_factory=PairSettings)
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    monitor: MonitorSettings = field(default_factory=MonitorSettings)
    advantage: PlugSettings = field(default_factory=PlugSettings)
    gradient: PlugSettings = field(default_factory=PlugSettings)
    prompt: PromptSettings = field(default_factory=PromptSettings)
    rollout: RolloutSettings = field(default_factory=RolloutSettings)
    reward: RewardSettings = field(default_factory=RewardSettings)
    # Used by the commands around the run, not by the workers: see configs/evil_moe.yaml.
    run_dir: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    policy: dict[str, Any] = field(default_factory=dict)
    eval: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        one_of("feature_state", self.feature_state, FEATURE_STATES)
        one_of("old_log_prob", self.old_log_prob, OLD_LOG_PROBS)
        one_of("adapter.init", self.adapter.init, INITS)
        one_of("reward.reply", self.reward.reply, READINGS)
        if (self.feature_state, self.router.feature) == ("base", "gradient"):
            raise ValueError(
                "evil_moe.router.feature=gradient is the gradient at the deployed block, which "
                "evil_moe.feature_state=base turns off: choose another state"
            )
        if self.router.refresh_every and self.feature_state == "base":
            raise ValueError(
                f"evil_moe.router.refresh_every={self.router.refresh_every} takes the direction anew from features that never "
                "change (evil_moe.feature_state=base): set evil_moe.feature_state=rollout, or refresh_every=0"
            )
        if self.router.refresh_every < 0 or self.adapter.quarantine_steps < 0:
            raise ValueError(
                f"evil_moe.router.refresh_every={self.router.refresh_every} and evil_moe.adapter.quarantine_steps="
                f"{self.adapter.quarantine_steps} count steps: 0 for none"
            )
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} must be a whole number from 0")
        above_zero = {
            "rollout.weight_sync_timeout_s": self.rollout.weight_sync_timeout_s,
            "reward.cpu_s": self.reward.cpu_s,
            "reward.wall_s": self.reward.wall_s,
            "reward.memory_mib": self.reward.memory_mib,
            "reward.output_kib": self.reward.output_kib,
            "reward.recursion": self.reward.recursion,
        }
        for name, value in above_zero.items():
            if value is not None and not value > 0:
                raise ValueError(f"evil_moe.{name}={value} must be above 0")
        if self.reward.workers < 1:
            raise ValueError(f"evil_moe.reward.workers={self.reward.workers}: grading needs at least 1")
        if self.reward.max_faults < 0:
            raise ValueError(f"evil_moe.reward.max_faults={self.reward.max_faults} must not be negative")
        if not 0 <= self.rollout.deployed_share <= 1:
            raise ValueError(
                f"evil_moe.rollout.deployed_share={self.rollout.deployed_share} must lie in [0, 1]"
            )
        if (bound := self.rollout.warn_ratio) is not None and not bound >= 1:
            raise ValueError(
                f"evil_moe.rollout.warn_ratio={bound} must be at least 1, or null for no warning"
            )
        if self.pin.weight < 0:
            raise ValueError(f"evil_moe.pin.weight={self.pin.weight} must not be negative")
        if self.contrast.weight < 0:
            raise ValueError(f"evil_moe.contrast.weight={self.contrast.weight} must not be negative")
        if self.contrast.weight > 0 and not self.router.learn:
            raise ValueError(
                "evil_moe.contrast.weight > 0 has nothing to teach with evil_moe.router.learn=false; set it to 0"
            )
        if self.pin.matched and not self.pairs.matched:
            raise ValueError(
                "evil_moe.pin.matched=true compares the sides of a pair: set evil_moe.pairs.matched=true"
            )
        if self.pin.weight > 0 and not self.router.learn:
            raise ValueError(
                "evil_moe.pin.weight > 0 has nothing to hold with evil_moe.router.learn=false; set it to 0"
            )

    @property
    def method(self) -> MethodSettings:
        """What of it a step of the method reads."""
        return MethodSettings(
            seed=self.seed,
            feature_state=self.feature_state,
            gate_deployed=self.rollout.gate_deployed,
            adapter=self.adapter,
            gate=self.gate,
            router=self.router,
            pairs=self.pairs,
            pin=self.pin,
            contrast=self.contrast,
            gradient=self.gradient,
            advantage=self.advantage,
        )


def settings_from(node: Any) -> EvilMoESettings:
    """The `evil_moe` node of a resolved config, checked.

    Raises:
        ValueError: an unknown key, a wrong type or a value that is not allowed; names the key.
    """
    try:
        plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else dict(node)
        defaults = OmegaConf.structured(EvilMoESettings)
        _unlock(defaults)
        merged = OmegaConf.merge(defaults, plain)
        settings = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ValueError(f"evil_moe.{error.full_key or ''}: {str(error).splitlines()[0]}") from error
    assert isinstance(settings, EvilMoESettings)
    return settings


def _unlock(node: DictConfig) -> None:
    """Frozen dataclasses make read-only nodes, at every depth, which cannot be merged into."""
    OmegaConf.set_readonly(node, False)
    for name in node:
        if not OmegaConf.is_missing(node, name) and isinstance(node[name], DictConfig):
            _unlock(node[name])
