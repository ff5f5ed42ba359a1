"""Any family trained on a data set: made for it, resumable, read back, its steps and its silent layers reported."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from netwright.core.errors import NetwrightError, UnknownName
from netwright.pipeline.family import (
    SIZED,
    FamilyTraining,
    configure,
    from_json,
    load,
    names,
    reads_sequences,
    shown,
    to_json,
)
from netwright.spike.layers import Spiking
from netwright.spike.models import CATALOGUE
from netwright.tasks import load_task
from netwright.train.evaluate import accuracy

SHAPES = {"digits": (1, 8, 8), "photographs": (3, 32, 48), "sequences": (1, 20, 9)}


@pytest.fixture(scope="module")
def task():
    return load_task("digits", seed=0, limit=128)


@pytest.fixture(scope="module")
def lif(task, tmp_path_factory):
    """A small LIF network after two epochs."""
    training = FamilyTraining(
        "lif-cnn", task, tmp_path_factory.mktemp("lif"), steps=3, epochs=6, lr=0.02, options={"widths": (6, 8), "pools": (0,)}
    )
    return training, training.train()


def test_every_spiking_family_can_be_trained_by_name():
    assert set(CATALOGUE) <= {configure(n, (1, 8, 8), 10).name for n in SIZED}
    assert configure("spiking-lmuformer", (1, 8, 8), 10).spiking and not configure("lmuformer", (1, 8, 8), 10).spiking


@pytest.mark.parametrize("data", SHAPES)
@pytest.mark.parametrize("name", SIZED)
def test_families_fit_the_data(name, data):
    shape = SHAPES[data]
    network = configure(name, shape, 7).build().eval()
    with torch.no_grad():
        assert network(torch.zeros(2, *shape)).shape == (2, 7)


def test_memories_are_as_long_as_the_sequences():
    made = {name: configure(name, (1, 20, 9), 3) for name in ("lmuformer", "phcssm", "lif-rnn")}
    assert made["lmuformer"].window == 20 and made["phcssm"].taus == made["lif-rnn"].taus == (1.5, 20)
    assert {c.channels for c in made.values()} == {9}
    assert configure("phcssm", (1, 20, 9), 3, options={"dale": True, "taus": (2.0, 4.0)}).taus == (2.0, 4.0)
    assert configure("rows_phcssm", (1, 20, 9), 3).dale, "a variant is taken as it is"


def test_large_images_are_brought_down_by_the_first_layer():
    sides = []
    for name in ("spikformer", "meta-spikeformer", "convnext"):
        small, large = (configure(name, (3, side, side), 10) for side in (32, 128))
        first = [c.strides[0] if name == "spikformer" else c.stages[0].stride if "meta" in name else c.stem_stride
                 for c in (small, large)]  # fmt: skip
        sides.append(first[1] / first[0])
    assert sides == [4, 4, 4]


@pytest.mark.parametrize("name", [n for n in names() if "tiny" not in n and "768" not in n and "small_7" not in n])
def test_configurations_are_json_both_ways(name):
    config = configure(name, (1, 8, 8), 10)
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


@pytest.mark.parametrize(
    ("name", "steps", "options", "error", "message"),
    [
        ("spikformr", None, {}, UnknownName, "family to train.*Did you mean 'spikformer"),
        ("spikformer", None, {"widht": 3}, UnknownName, "option of spikformer.*Did you mean 'width'"),
        ("spikformer", None, {"classes": 3}, UnknownName, "option"),
        ("spikformer", None, {"width": 12}, NetwrightError, "12 channels do not make heads of 8"),
        ("phcssm", 4, {}, NetwrightError, "8 steps of 8 numbers.*leave out --steps"),
        ("convnext", 4, {}, NetwrightError, "no spiking family"),
        ("lif-cnn", 0, {}, NetwrightError, "at least 1"),
    ],
)
def test_mistakes_are_named(name, steps, options, error, message, task, tmp_path):
    with pytest.raises(error, match=message):
        FamilyTraining(name, task, tmp_path, steps=steps, options=options)
    assert not list(tmp_path.iterdir())


def test_data_that_a_network_cannot_run_on_say_so(task, tmp_path):
    with pytest.raises(NetwrightError, match=r"does not run on inputs of 1 x 8 x 8.*--size"):
        FamilyTraining("convnext_tiny", task, tmp_path)


def test_what_is_kept_is_read_back(lif, task):
    training, found = lif
    kept = json.loads((training.folder / "config.json").read_text())
    assert kept["result"]["test_accuracy"] == found.test and kept["data"]["fingerprint"] == task.fingerprint
    for path in (training.folder, training.folder / "config.json"):
        network = load(path)
        assert not network.training
        with torch.no_grad():
            assert torch.equal(network(task.test.x), found.module.eval()(task.test.x))


def test_accuracy_over_time_is_that_of_the_network_stopped_earlier(lif, task):
    _, found = lif
    assert list(found.over_time) == [1, 2, 3] and found.over_time[3] == found.test
    net, x = found.module, task.test.x
    with torch.no_grad():  # by hand: the mean of the spikes of the first step alone
        spikes = net.layers(net.input(x).expand(3, *net.input(x).shape))
        first = net.head(spikes[:1].mean((0, 3, 4)))
    assert found.over_time[1] == pytest.approx(float((first.argmax(1) == task.test.y).float().mean()))


@pytest.mark.parametrize("name", ["phcssm", "lif-rnn", "spiking-lmuformer"])
def test_sequences_are_cut_short(name, task, tmp_path):
    found = FamilyTraining(name, task, tmp_path, epochs=1, options={"width": 8}).train()
    assert list(found.over_time) == list(range(1, 9)) and found.over_time[8] == found.test
    assert found.over_time[5] == accuracy(found.module, (task.test.x[:, :, :5], task.test.y))
    assert found.notes == ("Read row by row: 8 steps of 8 numbers.",)
    assert reads_sequences(found.config) and set(found.facts()["accuracy_over_time"]) == set(map(str, range(1, 9)))


def test_a_stopped_run_goes_on_and_ends_as_an_undisturbed_one(lif, task, tmp_path, monkeypatch):
    _, undisturbed = lif
    monkeypatch.setattr("netwright.train.engine.Engine._is_due", lambda *_: True)

    def stop(done, total, text):
        if done == 3:
            raise KeyboardInterrupt

    def again(progress=None):
        return FamilyTraining("lif-cnn", task, tmp_path, steps=3, epochs=6, lr=0.02, options={"widths": (6, 8), "pools": (0,)},
                              progress=progress)  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        again(stop).train()
    with pytest.raises(NetwrightError, match="no weights yet"):
        load(tmp_path)
    seen = []
    found = again(lambda done, total, text: seen.append(done)).train()
    assert seen[0] > 1, "went on from the checkpoint"
    for name, value in undisturbed.module.state_dict().items():
        assert torch.equal(found.module.state_dict()[name], value), name
    before = (tmp_path / "weights.safetensors").read_bytes()
    assert again().train().test == found.test and (tmp_path / "weights.safetensors").read_bytes() == before


def test_another_run_in_the_same_folder_is_not_lost(lif, task):
    training, _ = lif
    before = (training.folder / "weights.safetensors").read_bytes()
    with pytest.raises(NetwrightError, match="another recipe"):
        FamilyTraining("lif-cnn", task, training.folder, 3, 3, 0.02, {"widths": (6, 8), "pools": (0,)}).train()
    with pytest.raises(NetwrightError, match="another config"):
        FamilyTraining("lif-cnn", task, training.folder, 3, 6, 0.02, {"widths": (6, 10), "pools": (0,)}).train()
    assert (training.folder / "weights.safetensors").read_bytes() == before


def test_layers_that_never_fire_and_potentials_that_run_away_are_told(lif, task):
    training, found = lif
    assert set(found.firing) == {n for n, m in found.module.named_modules() if isinstance(m, Spiking)}
    broken = FamilyTraining("lif-cnn", task, training.folder, 3, 6, 0.02, {"widths": (6, 8), "pools": (0,)})
    broken.module.load_state_dict(found.module.state_dict())
    norm = broken.module.layers.conv_1.conv.layer.norm
    nn.init.zeros_(norm.weight)
    nn.init.constant_(norm.bias, -1e4)
    told = {name: f.troubles() for name, f in broken._firing(task.test.x).items()}
    assert told["layers.conv_1.fire"] == ["never fires", "a potential reaches 1.75e+04"]
    assert "never fires" not in told["layers.fire_0"]


def test_regions_of_a_recurrent_network_are_told_apart(task, tmp_path):
    training = FamilyTraining("phcssm", task, tmp_path, options={"width": 10})
    given = training.module.of_input[1]
    nn.init.zeros_(given.weight)
    nn.init.constant_(given.bias, -50.0)
    told = {name: f.troubles() for name, f in training._firing(task.test.x).items()}
    assert list(told) == ["region_0", "region_1", "region_2"] and told["region_1"] == ["never fires"] and not told["region_0"]


def test_own_sequences_in_an_npz(tmp_path):
    """[N, T, C] floats: class k has its large values in the k-th third of the time."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 0.3, (150, 12, 5)).astype(np.float32), np.arange(150) % 3
    for i, k in enumerate(y):
        x[i, 4 * k : 4 * k + 4] += 2
    np.savez(tmp_path / "own.npz", x_train=x[:120], y_train=y[:120], x_test=x[120:], y_test=y[120:])
    own = load_task(tmp_path / "own.npz", seed=0)
    found = FamilyTraining("phcssm", own, tmp_path / "run", epochs=40, options={"width": 10}, augment=()).train()
    assert found.notes == ("Read row by row: 12 steps of 5 numbers.",) and list(found.over_time) == [1, 2, 4, 8, 12]
    assert found.test > 0.9 and found.over_time[1] < 0.9


def test_steps_that_are_shown():
    assert shown(0) == [] and shown(4) == [1, 2, 3, 4] and shown(12) == [1, 2, 4, 8, 12] and shown(16) == [1, 2, 4, 8, 16]
