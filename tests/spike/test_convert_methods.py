"""Every conversion method: the contract, and what each promises."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from netwright.core.errors import NetwrightError
from netwright.deploy.c99 import build
from netwright.design.trace import trace
from netwright.spike import convert
from netwright.spike.convert import (
    LOIHI,
    QCFS,
    Auto,
    Bridge,
    Burst,
    ChannelPercentile,
    Fit,
    LightCalibration,
    LocalThresholdBalancing,
    Maximum,
    MinimumError,
    Percentile,
    SignedMemory,
    place,
    respect,
)
from netwright.spike.convert.auto import Row, mark
from netwright.spike.convert.bridge import OverSteps
from netwright.spike.convert.mmse import least_error
from netwright.spike.convert.qcfs import ClipFloorShift
from netwright.spike.convert.quantiles import quantiles
from netwright.spike.convert.read import read
from netwright.spike.convert.readout import counted_from, output_currents
from netwright.spike.convert.refit import Ridge
from netwright.spike.convert.simulate import spike_sum
from netwright.testing.spike import check_converter, short_fit, small_network

SMALL = {"auto": {"tried": {"ltb": LocalThresholdBalancing(iterations=4), "fit": Fit()}}}


def images(count=96, seed=1):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def digits():
    """A small pooling network trained on the digits: (network, calibration images, test images, test labels)."""
    data, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(data, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(labels)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 10),
        )  # fmt: skip
        optimiser = torch.optim.AdamW(net.parameters(), 5e-3)
        for _ in range(6):
            for i in torch.randperm(1437).split(64):
                optimiser.zero_grad()
                F.cross_entropy(net(x[i]), y[i]).backward()
                optimiser.step()
    return net.eval(), x[:1437], x[1437:], y[1437:]


def agreement(net, module, x):
    with torch.no_grad():
        return float((net(x).argmax(1) == module(x).argmax(1)).float().mean())


@pytest.mark.parametrize("name", convert.CATALOGUE)
def test_converter_contract(name):
    check_converter(convert.CATALOGUE[name](steps=8, **SMALL.get(name, {})))


@pytest.mark.parametrize("neuron", ["binary", "bipolar"])
def test_fit_contract_of_variants(neuron):
    check_converter(Fit(steps=4, neuron=neuron, windows=(0.5, 0.0), potential_rounds=2))
    check_converter(Fit(steps=3, neuron=neuron, prices=(), bias_rounds=0))


def test_fit_beats_every_simple_rule_at_two_steps(digits):
    net, calibration, x, _ = digits
    found = {}
    for method in (Maximum(), Percentile(), ChannelPercentile(), MinimumError(), LocalThresholdBalancing(), Fit(),
                   Fit(neuron="bipolar")):  # fmt: skip
        label = method.name + getattr(method, "neuron", "")
        found[label] = agreement(net, replace(method, steps=2).convert(net, x[:1], calibration).module, x)
    assert min(found["fitbinary"], found["fitbipolar"]) >= 0.95, found
    assert found["fitbinary"] >= max(v for k, v in found.items() if not k.startswith("fit")) - 0.005, found
    assert found["max"] < found["channel"]


def test_each_part_of_fit_lowers_the_error_of_the_layers(digits):
    net, calibration, x, _ = digits
    whole = Fit(steps=4)
    errors = [sum(layer.error for layer in m.convert(net, x[:1], calibration).layers)
              for m in (whole, replace(whole, prices=()), replace(whole, prices=(), bias_rounds=0))]  # fmt: skip
    assert errors[0] < errors[1] < errors[2], errors


def test_neurons_have_the_rule_that_the_method_says():
    net, x = small_network(0), images()
    rules = {
        ChannelPercentile(): ("if", 0), SignedMemory(): ("memory", 0), Burst(most=3): ("burst", 3), Fit(): ("if", 0),
        Fit(neuron="bipolar"): ("memory", 0),
    }  # fmt: skip
    for method, (rule, limit) in rules.items():
        nodes = [n for n in replace(method, steps=4).convert(net, x[:1], x).module.graph if n.op == "integrate"]
        assert {(n.attrs["rule"], n.attrs["limit"]) for n in nodes} == {(rule, limit)}, method.name


def test_burst_neurons_send_what_ordinary_ones_clip():
    net, x = small_network(0), images()
    one, many = (m.convert(net, x[:1], x).layers for m in (ChannelPercentile(share=0.5, steps=8), Burst(share=0.5, steps=8)))
    assert all(b.clipped < a.clipped and b.error < a.error for a, b in zip(one, many, strict=True))


def test_quantiles_are_those_of_all_activations():
    net, x = small_network(0), images()
    program = read(trace(net, x[:1]))
    kept = {}
    program(x, lambda layer, z: kept.setdefault(layer.name, z.clamp(min=0)))
    whole, each = (quantiles(program, x, 0.99, channelwise=c) for c in (False, True))
    top = quantiles(program, x, 1.0, channelwise=True)
    for name, a in kept.items():
        rows = a.transpose(0, 1).flatten(1)
        assert torch.equal(top[name], rows.amax(1))
        assert float((rows <= each[name][:, None]).float().mean()) == pytest.approx(0.99, abs=0.002)
        assert float((rows <= whole[name][:, None]).float().mean()) == pytest.approx(0.99, abs=0.002)


def test_mmse_threshold_is_the_best_of_the_grid():
    a = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)).clamp(min=0)
    theta = least_error(a, 4, 16, signed=False)

    def error(t):
        sent = spike_sum(a[None], t[None, None], t[None, None] / 2, torch.zeros(1, 1, 3), 4, "if")[0]  # a constant current
        return (sent * t / 4 - a).square().mean(0)

    tried = torch.stack([error(a.amax(0) * k / 16) for k in range(1, 17)])
    assert torch.allclose(error(theta), tried.amin(0), rtol=1e-4)


def test_light_calibration_removes_the_mean_error():
    net, x = small_network(0), images()
    for method in (LightCalibration(steps=4), LightCalibration(steps=4, potential=True)):
        errors = []
        for m in (MinimumError(steps=4), method):
            made = m.convert(net, x[:1], x)
            seen = {}
            with torch.no_grad():
                made.module(x, visit=lambda n, out, seen=seen: seen.__setitem__(n.name, out) if n.op == "integrate" else None)
                name = made.layers[0].name
                sent = seen[name].reshape(4, len(x), 8, -1).double().mean((0, 1, 3)) * made.thresholds[name]
                floats = {}
                read(trace(net, x[:1]))(x, lambda layer, z, floats=floats: floats.setdefault(layer.name, z.clamp(min=0)))
                errors.append(float((sent - floats[name].double().mean((0, 2, 3))).abs().mean()))
        assert errors[1] < 0.6 * errors[0], errors


@pytest.mark.parametrize("points", [40, 5])
def test_ridge_solves_its_normal_equations(points):
    g = torch.Generator().manual_seed(0)
    x, r = torch.randn(points, 12, generator=g) + 1, torch.randn(points, 3, generator=g)
    ridge = Ridge.of(x)
    w, b = ridge.solve(r, 0.1)
    left = r - (x @ w.T + b)
    assert torch.allclose(left.mean(0), torch.zeros(3), atol=1e-5)
    centred = x - x.mean(0)
    assert torch.allclose(centred.T @ left / points, 0.1 * centred.square().mean() * w.T, atol=1e-4)


def test_average_pooling_of_spikes_needs_no_neurons():
    net, x = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(),
                           nn.Linear(32, 10)).eval(), images()  # fmt: skip
    graph = Fit(steps=4).convert(net, x[:1], x).module.graph
    assert [n.op for n in graph].count("integrate") == 2
    pool = next(n for n in graph if "avg_pool" in n.name)
    assert pool.op == "qconv2d" and graph.value(pool, "weight").min() == graph.value(pool, "weight").max() == 1


def test_clip_floor_shift_and_its_gradients():
    layer = ClipFloorShift(2.0, 4)
    z = torch.tensor([-1.0, 0.2, 0.3, 0.7, 1.6, 5.0], requires_grad=True)
    out = layer(z)
    assert out.tolist() == pytest.approx([0.0, 0.0, 0.5, 0.5, 1.5, 2.0])  # steps of lambda / L = 1/2, rounded to the nearest
    out.sum().backward()
    assert z.grad.tolist() == [0, 1, 1, 1, 1, 0]


def test_qcfs_thresholds_are_the_learnt_lambdas():
    net, x = small_network(0), images()
    method, kept = QCFS(steps=4), {}

    def fit(trainee, **settings):
        assert settings["stage"] == "qcfs"
        for name, module in trainee.named_modules():
            if isinstance(module, ClipFloorShift):
                with torch.no_grad():
                    module.threshold.mul_(1.5)
                kept[name] = float(module.threshold.detach())
        return trainee

    made = method.convert(net, x[:1], x, fit=fit)
    assert sorted(float(t.mean()) for t in made.thresholds.values()) == pytest.approx(sorted(kept.values()), rel=0.01)
    assert all(float(t.std() / t.mean()) < 0.01 for t in made.thresholds.values())  # one a layer, up to rounding to integers


def test_bridge_trains_the_network_that_is_deployed(digits):
    net, calibration, x, y = digits
    method = Bridge(steps=1)
    trainee = method.prepare(net, x[:1], calibration)
    assert isinstance(trainee, OverSteps)
    with torch.no_grad():
        before = float((trainee(x).argmax(1) == y).float().mean())
        floats = trainee.program(x, lambda layer, z: z.clamp(min=0))
        assert torch.allclose(floats, net(x), atol=1e-4)  # the float network's weights, with batch norm folded in

    def fit(trainee, **_):
        optimiser = torch.optim.Adam(trainee.parameters(), 1e-3)
        g = torch.Generator().manual_seed(0)
        with torch.no_grad():
            wanted = net(calibration).softmax(1)
        for _epoch in range(2):
            for i in torch.randperm(len(calibration), generator=g).split(64):
                optimiser.zero_grad()
                F.cross_entropy(trainee(calibration[i]), wanted[i]).backward()
                optimiser.step()
        return trainee

    trained = fit(trainee)
    with torch.no_grad():
        after = float((trained(x).argmax(1) == y).float().mean())
        made = method.convert(net, x[:1], calibration, fit=lambda _, **__: trained)
        deployed = float((made.module(x).argmax(1) == y).float().mean())
    assert after > before and deployed == pytest.approx(after, abs=0.02)


def test_front_and_choice_of_auto():
    rows = [Row("a", 1, 0, 0.9, 10.0, False, 0.0), Row("b", 2, 0, 0.9, 10.0, False, 0.0), Row("c", 2, 0, 0.95, 12.0, True, 0.0)]
    assert [r.best for r in mark(rows)] == [True, False, True]
    net, x = small_network(0), images(128)
    auto = Auto(tried={"max": Maximum(), "fit, bipolar": Fit(neuron="bipolar"), "fit, binary": Fit()}, held_out=32)
    choice = auto.choose(net, x[:1], x, (2, 8))
    assert len(choice.rows) == 6 and choice.picked in choice.rows and choice.picked.method in choice.why
    assert choice.made.steps == choice.picked.steps and choice.made.start == choice.picked.start
    assert set(choice.front) <= set(choice.rows) and choice.front
    binary = replace(auto, binary=True).choose(net, x[:1], x, (8,))
    assert not binary.picked.signed and len(binary.rows) == 3 and any(r.signed for r in binary.rows)


def test_counting_from_another_step_is_the_sum_from_there():
    net, x = small_network(0), images()
    made = ChannelPercentile(steps=8, delay="none").convert(net, x[:1], x)
    with torch.no_grad():
        currents = output_currents(made.module, x)
        later = counted_from(made, 5)
        assert torch.allclose(made.module(x), currents.mean(0).float(), atol=1e-4)
        assert torch.allclose(later.module(x), currents[5:].mean(0).float(), atol=1e-4)
    assert made.start == 0 and later.start == 5


def test_chip_counts_cores_and_says_what_exceeds():
    net, x = small_network(0), images()
    graph = ChannelPercentile(steps=4).convert(net, x[:1], x).module.graph
    found = place(graph)
    assert found.fits and len(found.layers) == 3 and all(layer.cores == 1 for layer in found.layers)
    assert found.layers[0].fan_in <= 9 and found.layers[0].neurons == 8 * 4 * 4  # the pooled image
    tight = replace(LOIHI, neurons=32, fan_in=40, weight_bits=4, memory=256, signed=False)
    rows = place(graph, tight).layers
    assert rows[0].cores >= 4 and any("fan-in" in e for row in rows for e in row.exceeds)
    assert all("weights of 8 bits of 4" in row.exceeds for row in rows)
    signed = SignedMemory(steps=4).convert(net, x[:1], x).module.graph
    assert any("negative spikes" in row.exceeds for row in place(signed, tight).layers)


def test_respecting_a_fan_in_keeps_the_largest_inputs():
    net, x = small_network(0), images()
    cut = respect(net, x[:1], x, replace(LOIHI, fan_in=20))
    graph = ChannelPercentile(steps=4).convert(cut, x[:1], x).module.graph
    assert all(layer.fan_in <= 21 for layer in place(graph).layers)  # a shortcut adds one
    whole = respect(net, x[:1], x, LOIHI)
    with torch.no_grad():
        assert torch.allclose(whole(x), net(x), atol=1e-5)


def test_progress_ends_at_its_total_and_no_steps_are_refused():
    net, x, seen = small_network(0), images(), []
    Fit(steps=2, windows=(0.5, 0.0)).convert(net, x[:1], x, lambda done, total, text: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] and [d for d, _ in seen] == sorted(d for d, _ in seen)
    for method in (Fit(steps=0), QCFS(steps=0), Bridge(steps=0), Auto(steps=0)):
        with pytest.raises(NetwrightError, match="at least one time step"):
            method.convert(net, x[:1], x, fit=short_fit)


@pytest.mark.skipif(shutil.which("gcc") is None and shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("method", [Fit(steps=4, neuron="bipolar"), Burst(steps=4, most=50)], ids=["bipolar", "burst"])
def test_compiled_networks_give_the_same_logits(method, digits, tmp_path):
    net, calibration, x, _ = digits
    made = method.convert(net, x[:1], calibration[:200])
    with torch.no_grad():
        wanted = made.module(x[:16]).numpy()
    assert np.array_equal(build(made.module.to_graph(), tmp_path).run(x[:16].numpy()), wanted)
