"""A user's network and data, converted to spikes: chosen on calibration images, measured on test images, or refused."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from netwright.cli import main
from netwright.core.errors import NetwrightError
from netwright.deploy.bundle import Bundle
from netwright.pipeline.fitting import TaskData
from netwright.pipeline.spikes import BOTH, AccuracyMissed, Spikes, seeded
from netwright.spike.convert import CATALOGUE, MinimumError
from netwright.tasks import load_task
from netwright.train import Recipe, fit


def own(act=nn.ReLU) -> nn.Module:
    torch.manual_seed(0)
    head = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(12, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))
    return nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), act(), *head)


@pytest.fixture(scope="module")
def digits():
    return load_task("digits", seed=0)


@pytest.fixture(scope="module")
def spikes(digits):
    return Spikes(fit(own(), TaskData(digits, None), Recipe(steps=200, lr=4e-3, evaluations=1)).module, digits, 256)


def test_binary_and_signed_spikes_stand_side_by_side_and_the_exit_is_in_the_bundle(spikes, digits, tmp_path):
    choice = spikes.choose((4,), BOTH)
    assert [r.signed for r in choice.rows] == [False, True] and choice.picked in choice.rows
    found = spikes.measure(choice.made, choice.picked.method, 0.0)
    assert len(found.over_time) == 4 and found.drop < 3 and found.over_time[0] < found.over_time[-1]
    spikes.require(found, 3)
    with pytest.raises(AccuracyMissed, match=r"loses.*--max-drop allows -50"):
        spikes.require(found, -50)
    early = spikes.exit(found.made)
    bundle = spikes.bundle(found, tmp_path / "b", early)
    x = digits.test.x[:20]
    logits, steps = Bundle.load(bundle.path).run_exits(x.numpy())
    simulated, at = early.rule.exits(early.network(found.made.module), x)
    assert (torch.from_numpy(steps) == at).all() and (torch.from_numpy(logits).argmax(1) == simulated.argmax(1)).all()
    assert json.loads(json.dumps(bundle.info))["exit"]["steps"] == 4
    assert spikes.energy(found.made).acs > 0


def test_a_method_is_given_steps_and_seed_where_it_has_them(spikes):
    method = seeded(2, 7, MinimumError, {})
    assert method.steps == 2 and method.seed == 7
    found = spikes.convert(method)
    assert found.made.steps == 2 and set(found.health) == {layer.name for layer in found.made.layers}


def test_what_is_approximated_and_what_is_refused_is_said(digits):
    found = Spikes(own(nn.GELU), digits, 64).approximated
    assert [r.what for r in found.replaced] == ["gelu"] and 0 < found.replaced[0].worst < 0.1
    bad = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.LayerNorm(144), nn.Linear(144, 10))
    with pytest.raises(NetwrightError, match=r"(?s)group_norm.*layer_norm"):
        _ = Spikes(bad, digits, 64).approximated


def test_the_command(spikes, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    head = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(12, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))\n"
        "    return nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), *head)\n"
    )
    module = own()
    fitted = fit(module, TaskData(spikes.task, None), Recipe(steps=100, lr=4e-3, evaluations=1)).module
    save_file({k: v.contiguous() for k, v in fitted.state_dict().items()}, tmp_path / "w.safetensors")
    command = ["spike", "mine.py:net", "--weights", "w.safetensors", "--data", "digits", "--calibration", "128"]
    assert main([*command, "--steps", "2", "--early", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (
        len(facts["accuracy_over_time"]) == 2
        and len(facts["tried"]) == 2
        and facts["energy"]["verdict"]
        and facts["exit"]["steps"] == 2
    )
    assert main([*command, "--method", "ltb", "--option", "iterations=4", "--steps", "3"]) == 0
    assert "after step 1:" in capsys.readouterr().out
    assert main([*command, "--method", "ltbb"]) == 1
    assert "Did you mean 'ltb'" in capsys.readouterr().err
    assert "ltb" in CATALOGUE
