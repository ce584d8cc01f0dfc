"""Every YAML file composes, every preset with every arm, and what cannot work is refused with a reason."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from evil_moe.adapter import Lora2rConfig
from evil_moe.experiment.commands import compare
from evil_moe.experiment.config import CONFIG_DIR, choices, compose
from evil_moe.experiment.config_checks import check_config
from evil_moe.experiment.doctor.memory import find_architecture, workload
from evil_moe.experiment.doctor.memory_plan import plan_memory
from evil_moe.experiment.monitor import feature_basis
from evil_moe.experiment.run.folder import _flat
from evil_moe.experiment.settings import settings_from
from evil_moe.export import export_rank
from evil_moe.features import make_pooling
from evil_moe.probe import fit_probe
from reward.loopholes import mixed

NANO = (
    "nano", "nano_long", "nano_long_kept_share", "nano_long_split_moment", "nano_long_code_pairs", "nano_long_idiom_pairs",
)  # fmt: skip
PRESETS = (*NANO, "qwen3_4b_1x96gb", "qwen3_4b_fsdp")
ARMS = choices("arm")
MAIN_ARMS = ("none", "absorb", "absorb_whole", "router", "frozen", "random", "random_matched")
#: What an arm cannot have a default for.
NEEDS = {
    arm: ("evil_moe.monitor.base_url=http://localhost:1/v1", "evil_moe.monitor.model=m")
    for arm in ARMS
    if arm.startswith("judge")
}
VLLM_LORA_RANKS = (8, 16, 32, 64, 128, 256)


@cache
def _composed(*overrides: str) -> DictConfig:
    """Composing takes a second; nobody changes what comes back."""
    return compose(list(overrides))


def test_these_are_all_files():
    assert choices("preset") == sorted(PRESETS)
    assert set(MAIN_ARMS) < set(ARMS) and MAIN_ARMS == compare.MAIN_ARMS
    files = {path.relative_to(CONFIG_DIR).as_posix() for path in CONFIG_DIR.rglob("*.yaml")}
    known = {
        "evil_moe.yaml",
        "agent_loop.yaml",
        "prereg/nano_windows.yaml",
        "prereg/nano_long_windows.yaml",
        *(f"prereg/{preset}.yaml" for preset in NANO),
    }
    assert files == known | {f"preset/{name}.yaml" for name in PRESETS} | {
        f"arm/{name}.yaml" for name in ARMS
    }


def test_markers_of_the_evaluation():
    markers = {preset: _composed(f"preset={preset}").evil_moe.eval.markers for preset in PRESETS}
    gpu = {"qwen3_4b_1x96gb": "eval", "qwen3_4b_fsdp": "eval"}
    assert markers == {**dict.fromkeys(NANO, "train"), **gpu}


def test_every_arm_says_what_it_is():
    for arm in ARMS:
        text = (CONFIG_DIR / "arm" / f"{arm}.yaml").read_text()
        assert text.startswith("# @package _global_\n# "), f"{arm}: a line that says what it is comes first"
        assert len(text.splitlines()) <= 25, f"{arm}: an arm names plugs, a few lines"
        flagged = "sees a detector's flag" in text.lower()
        assert flagged == arm.startswith("label"), (
            f"{arm}: who sees a detector's flag says so, and nobody else"
        )


@pytest.mark.parametrize(
    ("preset", "arm"),
    [("nano", arm) for arm in ARMS]
    # an arm's keys are the same everywhere; what differs between presets are ranks and sizes, in two a gradient plug, and on a
    # GPU the eye, which these arms cannot have
    + [("qwen3_4b_1x96gb", arm) for arm in ("route_act", "route_grad", "refresh")]
    + [(preset, arm) for preset in NANO[2:] for arm in ("router", "label", "discardable")]
    + [
        (preset, arm)
        for preset in PRESETS[1:]
        if preset not in NANO[2:]
        for arm in (*MAIN_ARMS, "blocks", "label", "discardable")
    ],
)
def test_every_preset_composes_with_every_arm(preset: str, arm: str):
    config = _composed(f"preset={preset}", f"arm={arm}", "seed=3", *NEEDS.get(arm, ()))
    if arm.startswith("probe"):
        with pytest.raises(
            FileNotFoundError, match=f"{Path.cwd()}/runs/{preset}/probe/seed3.*fit a probe first"
        ):
            check_config(config)
        assert config.evil_moe.feature_state == "base", "the state that a probe is fitted in"
    else:
        check_config(config)
    settings = settings_from(config.evil_moe)
    assert (settings.preset, settings.arm, settings.seed) == (preset, arm, 3)
    assert settings.adapter.init_seed == 3
    assert settings.run_dir.endswith(f"runs/{preset}/{arm}/seed3")
    assert config.actor_rollout_ref.model.lora.evil_moe.arm == arm, "the workers see other settings"


def test_the_gpu_presets_look_at_windows_and_the_nano_ones_at_the_mean():
    """Their replies have prose; and a direction with windows is refused where there are none."""
    routers = {preset: settings_from(_composed(f"preset={preset}").evil_moe).router for preset in PRESETS}
    for preset, router in routers.items():
        found = (router.pooling.name, router.direction_tokens, router.threshold_rule)
        assert found == (
            ("mean", "completion", "gap") if preset in NANO else ("window", "hack_windows", "quantile")
        )
    assert make_pooling("window").size == 8
    for pooling in ("mean", "last"):
        config = _composed(
            f"evil_moe.router.pooling.name={pooling}", "evil_moe.router.direction_tokens=hack_windows"
        )
        with pytest.raises(ValueError, match=f"pooling.name={pooling} has none: use pooling.name=window"):
            check_config(config)


@pytest.mark.parametrize("kind", ["monitor", "probe", "judge"])
def test_a_monitors_arms_differ_in_what_it_does(kind: str):
    """A name says the action. The detector's scores are 0 and 1, so with it `progressive` would be `penalty` again."""
    arms = [arm for arm in ARMS if arm.startswith(f"{kind}_")]
    actions = ["penalty", "progressive", "screening"] if kind != "monitor" else ["penalty", "screening"]
    assert arms == [f"{kind}_{action}" for action in actions]
    nodes = [dict(_composed(f"arm={arm}", *NEEDS.get(arm, ())).evil_moe.monitor) for arm in arms]
    assert [node.pop("action") for node in nodes] == actions
    labels = [node.pop("label") for node in nodes]
    assert labels == (["strict", "loose"] if kind == "monitor" else ["loophole"] * 3), "the benchmark's"
    assert all(node == nodes[0] for node in nodes), "the same monitor"


def test_dials_in_the_names_of_arms_are_theirs():
    for share in (20, 50, 90):
        detector = _composed(f"arm=label_recall{share}").evil_moe.detector
        assert (detector.true_positive_rate, detector.false_positive_rate) == (share / 100, 0.0)
    for arm, m in (("project_svd8", 8), ("project_svd", 16), ("project_svd32", 32)):
        assert _composed(f"arm={arm}").evil_moe.gradient.options == {"magnitude": True, "denoise": m}


def test_a_probe_is_of_its_seed_and_no_other(tmp_path: Path):
    """A0 and the nano policy follow from the seed, and a probe of other features has the right shape all the same."""
    config, other_seed = (_composed("arm=probe_penalty", f"seed={seed}").copy() for seed in (0, 1))
    fitted = fit_probe(torch.randn(800, 2, 4), torch.rand(800) < 0.5, torch.arange(800), "mass_mean")
    fitted.save(tmp_path, feature_basis(config))
    config.evil_moe.monitor.probe = other_seed.evil_moe.monitor.probe = str(tmp_path)
    check_config(config)
    with pytest.raises(ValueError, match="init_seed=0, and this run has 1"):
        check_config(other_seed)
    for key, value, message in (
        ("evil_moe.feature_state", "rollout", "feature_state=base, and this run has rollout"),
        ("evil_moe.adapter.init", "pissa", "init=gaussian, and this run has pissa"),
        ("evil_moe.loophole", "exit_code", "policy=nano-policy-[0-9a-f]*, and this run has nano-policy-"),
    ):
        other = config.copy()
        OmegaConf.update(other, key, value)
        with pytest.raises(ValueError, match=message):
            check_config(other)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_resolves_and_fits(preset: str):
    config = _composed(f"preset={preset}")
    OmegaConf.to_container(config, resolve=True)
    assert config.data.train_batch_size == config.actor_rollout_ref.actor.ppo_mini_batch_size
    longest = config.data.max_prompt_length + config.data.max_response_length
    assert longest <= config.actor_rollout_ref.rollout.max_model_len
    assert config.actor_rollout_ref.actor.loss_scale_factor is not None, (
        "verl's default varies by micro-batch"
    )
    assert config.actor_rollout_ref.model.lora.rank in VLLM_LORA_RANKS
    model, work = find_architecture(config), workload(config)
    assert model is not None
    if config.trainer.device == "cpu":
        assert plan_memory(model, work).kv_needed <= work.kv_cache_bytes
    else:
        assert plan_memory(model, work).fits


def test_the_benchmark_is_set_as_published():
    config = _composed("preset=qwen3_4b_1x96gb")
    actor, rollout, model = (config.actor_rollout_ref[name] for name in ("actor", "rollout", "model"))
    assert (config.trainer.total_training_steps, config.data.train_batch_size, rollout.n) == (200, 16, 16)
    assert (model.lora_rank, model.lora_alpha, actor.optim.lr) == (32, 32, 7e-5)
    assert (actor.optim.lr_scheduler_type, actor.optim.lr_warmup_steps) == ("cosine", 10)
    assert (list(actor.optim.betas), actor.optim.weight_decay, actor.optim.clip_grad) == (
        [0.9, 0.99],
        0.1,
        1.0,
    )
    assert (actor.use_kl_loss, actor.kl_loss_coef, actor.kl_loss_type) == (True, 1e-3, "low_var_kl")
    assert (rollout.temperature, rollout.top_p) == (0.7, 0.95)
    assert (rollout.val_kwargs.temperature, rollout.val_kwargs.top_p) == (0.7, 0.95)
    assert (config.data.max_prompt_length, config.data.max_response_length) == (1536, 1536)
    assert actor.loss_scale_factor == 1536
    reward = settings_from(config.evil_moe).reward
    assert (reward.compile, reward.pays) == (0.5, 3.0)
    assert config.data.apply_chat_template_kwargs == {"enable_thinking": False}
    assert config.trainer.device == "cuda"


def test_the_fsdp_preset_differs_from_the_single_gpu_one_only_where_it_must():
    one, many = (
        _flat(OmegaConf.to_container(_composed(f"preset={name}"), resolve=True))
        for name in PRESETS[len(NANO) :]
    )
    differ = {key for key in {*one, *many} if one.get(key) != many.get(key) and "evil_moe" not in key}
    assert differ == {
        "actor_rollout_ref.rollout.max_num_seqs",
        "actor_rollout_ref.rollout.n_gpus_per_node",
        "actor_rollout_ref.rollout.trace.experiment_name",
        "trainer.n_gpus_per_node",
        "trainer.experiment_name",
        "trainer.default_local_dir",
    }


def test_the_long_nano_run_differs_only_in_its_task():
    short, long = (
        _flat(OmegaConf.to_container(_composed(f"preset={name}"), resolve=True)) for name in PRESETS[:2]
    )
    differ = {key for key in {*short, *long} if short.get(key) != long.get(key)}
    names = {"preset", "run_dir", "loophole", "data.train_problems", "data.eval_problems"}
    assert {key for key in differ if key.startswith("evil_moe.")} == {f"evil_moe.{name}" for name in names}
    assert long["trainer.total_training_steps"] > 1.5 * short["trainer.total_training_steps"]
    assert (
        long["trainer.total_training_steps"] * long["data.train_batch_size"]
        <= long["evil_moe.data.train_problems"]
    ), "a prompt comes twice"
    assert len(mixed(long["evil_moe.loophole"])) == 3
    assert long["evil_moe.pairs.groups"] == ["overwritten_evaluation"], "the pairs show one of them"


def test_agent_loops_name_classes_that_exist():
    loops = yaml.safe_load((CONFIG_DIR / "agent_loop.yaml").read_text())
    assert {loop["name"] for loop in loops} == {
        _composed().actor_rollout_ref.rollout.agent.default_agent_loop
    }
    for loop in loops:
        get_class(loop["_target_"])


def test_every_key_has_its_reason_in_the_file():
    """A preset says why it differs: comments, and no key that only repeats a default of ours."""
    for path in (CONFIG_DIR / "preset").glob("*.yaml"):
        assert sum(line.lstrip().startswith("#") for line in path.read_text().splitlines()) >= 5, path


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("arm=nope", r"arm/nope.*\['absorb', 'absorb_whole', 'anchored', .*'windows_matched'\]"),
        ("preset=nope", r"preset/nope.*\['nano', 'nano_long', .*'nano_long_kept_share', .*'qwen3_4b_1x96gb'"),
        ("evil_moe.rooter.gain=2", "rooter"),
        ("+evil_moe.rooter=2", "rooter"),
        ("evil_moe.router.gain=high", r"gain.*high"),
        ("evil_moe.rollout.deployed_share=2", r"deployed_share=2.*\[0, 1\]"),
        ("evil_moe.router.feature=logits", r"router\.feature='logits'.*gradient"),
        ("evil_moe.adapter.init=lora", r"adapter\.init='lora'.*signed_corda"),
        ("evil_moe.router.refresh_every=-1", r"refresh_every=-1"),
        ("arm=judge_penalty", r"monitor\.base_url is needed.*EVIL_MOE_JUDGE_URL"),
        ("evil_moe.pin.weight=-1", r"pin\.weight=-1"),
        ("evil_moe.router.threshold=mean", r"router\.threshold='mean'.*base"),
        ("trainer.total_trainig_steps=3", "total_trainig_steps"),
    ],
)
def test_composing_refuses(override: str, message: str):
    with pytest.raises(ValueError, match=message):
        compose([override])


@pytest.mark.parametrize(
    ("group", "text", "message"),
    [
        ("arm", "# Licence: MIT\n# @package _global_\ndefaults: [router, _self_]\nevil_moe: {arm: mine}\n", "very first line"),
        ("arm", "defaults: [router, _self_]\nevil_moe: {arm: mine}\n", "arm=mine: its file's keys went under 'arm'"),
        ("preset", "# (c)\n# @package _global_\ndefaults: [nano, _self_]\nevil_moe: {preset: mine}\n", "under 'preset'"),
        ("arm", "# @package _global_\ndefaults: [router, _self_]\nevil_moe: {pin: {weight: 0}}\n", r"of itself evil_moe\.arm=router"),
        ("preset", "# @package _global_\ndefaults: [nano, _self_]\ntrainer: {save_freq: 1}\n", r"of itself evil_moe\.preset=nano"),
        ("arm", "\n# @package _global_\n# Licence: MIT\ndefaults: [router, _self_]\nevil_moe: {arm: mine}\n", None),
    ],
    ids=["licence", "no-package", "preset-licence", "parents-name", "presets-name", "right"],
)  # fmt: skip
def test_a_file_of_ones_own_is_applied_or_refused(
    group: str, text: str, message: str | None, tmp_path: Path
) -> None:
    """Hydra stops looking for a package at the first other comment, and then hides the file's keys under its group."""
    (tmp_path / group).mkdir()
    (tmp_path / group / "mine.yaml").write_text(text)
    overrides = [f"hydra.searchpath=[pkg://verl.trainer.config,file://{tmp_path}]", f"{group}=mine"]
    if message is None:
        assert compose(overrides).evil_moe.run_dir == str(Path.cwd() / "runs/nano/mine/seed0")
        return
    with pytest.raises(ValueError, match=message):
        compose(overrides)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_takes_the_files_that_data_prepare_writes(preset: str):
    files = (
        "evil_moe.data.source=files",
        "evil_moe.data.train=a.jsonl.gz",
        "evil_moe.data.evaluation=b.jsonl.gz",
    )
    config = compose([f"preset={preset}", *files, "evil_moe.pairs.paths=[p.yaml]"]).evil_moe
    here = Path.cwd()
    assert (config.data.train, config.pairs.paths) == (str(here / "a.jsonl.gz"), [str(here / "p.yaml")])


def test_export_ranks_of_the_presets_follow_from_the_adapter():
    for preset in PRESETS:
        model = _composed(f"preset={preset}").actor_rollout_ref.model
        assert export_rank(Lora2rConfig(r=model.lora_rank), "full") == model.lora.rank
