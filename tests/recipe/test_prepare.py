"""The nano policy is warm-started for longer where its seed has not settled."""

import pytest

from evil_moe import nano_policy
from evil_moe.nano_policy import WarmStartPhase, WarmStartRun
from recipe import prepare


@pytest.mark.parametrize("limit, started, settles", [(100.0, [1, 2], True), (0.0, [1, 2, 3, 4], False)])
def test_the_last_phase_is_repeated_until_the_policy_settles(tmp_path, monkeypatch, limit, started, settles):
    monkeypatch.setattr(prepare, "CACHE", tmp_path)
    monkeypatch.setattr(prepare, "WARM_START_BATCH_SIZE", 4)
    monkeypatch.setattr(prepare, "WARM_START_PHASES", (WarmStartPhase(20, 1e-4), WarmStartPhase(20, 1e-4)))
    monkeypatch.setattr(nano_policy, "SETTLED_REPLY_LOSS", limit)
    lines: list[str] = []
    folder = prepare.nano_policy_folder(0, "run_tests", lines.append)
    done = [int(line.split(":")[0].removeprefix("phase ")) for line in lines if "warm start 20/20" in line]
    assert done == started
    assert ("still not settled" in lines[-1]) == (not settles)
    assert (folder / "model.safetensors").is_file()
    assert prepare.nano_policy_folder(0, "run_tests", lines.append) == folder
    assert lines[-1].startswith("nano policy: cached")


def test_a_warm_start_settles_by_its_last_steps():
    assert WarmStartRun((), (9.0, *[0.99 * nano_policy.SETTLED_REPLY_LOSS] * 20), 0.0).settled
    assert not WarmStartRun((), (*[0.0] * 20, *[2.01 * nano_policy.SETTLED_REPLY_LOSS] * 10), 0.0).settled
