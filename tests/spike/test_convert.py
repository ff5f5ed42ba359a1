"""Conversion to an integer spiking network: contract, equality with a floating-point simulation, accuracy on digits."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from netwright.core.errors import NetwrightError
from netwright.design.execute import GraphModule
from netwright.design.models.staged import Stage, Staged
from netwright.design.trace import trace
from netwright.spike.convert import LocalThresholdBalancing
from netwright.spike.convert.balance import activation
from netwright.spike.convert.program import Neuron
from netwright.spike.convert.read import read
from netwright.spike.neurons import Bipolar, IntegrateAndFire, simulate
from netwright.spike.unroll import accuracy_over_time, first_step, logits_over_time, spike_rates
from netwright.testing.spike import check_converter, small_network

PAPER = LocalThresholdBalancing(delay="none")


def test_paper_form_meets_the_contract():
    check_converter(replace(PAPER, iterations=16, delay="paper"))


def float_simulation(net, made, x):
    """The same network in floating point: unquantised weights, the thresholds the converter chose, one spike train a layer."""
    program, steps, trains = read(trace(net, x[:1])), made.steps, {}
    trains[program.input.name] = [x] * steps
    for layer in program.steps:
        if isinstance(layer, Neuron):
            sources = [t.source for t in layer.region.terms]
            z = torch.stack([layer.region({s: trains[s][k] for s in sources}) for k in range(steps)])
            theta = made.thresholds[layer.name].float()
            spikes = simulate(Bipolar(theta) if layer.signed else IntegrateAndFire(theta), z)
            trains[layer.name] = [s * theta.reshape(-1, *[1] * (s.dim() - 2)) for s in spikes]
        else:
            trains[layer.name] = [layer(*(trains[s][k] for s in layer.sources)) for k in range(steps)]
    return torch.stack([program.head({t.source: trains[t.source][k] for t in program.head.terms}) for k in range(steps)]).mean(0)


def test_integer_network_follows_the_float_simulation():
    net, g = small_network(2), torch.Generator().manual_seed(4)
    x = torch.rand(64, 1, 8, 8, generator=g)
    made = replace(PAPER, steps=64).convert(net, x[:1], x)
    with torch.no_grad():
        got, simulated, wanted = made.module(x), float_simulation(net, made, x), net(x)
    spread = float(simulated.std(0).mean())
    assert float((got - simulated).abs().mean()) < 0.25 * spread  # 8-bit weights move single spikes, not the answer
    program = read(trace(net, x[:1]))
    with torch.no_grad():
        assert torch.allclose(program(x, lambda layer, z: activation(layer, z)), wanted, atol=1e-5)
    short = replace(PAPER, steps=4).convert(net, x[:1], x)
    with torch.no_grad():
        assert float((got - wanted).abs().mean()) < 0.5 * float((short.module(x) - wanted).abs().mean())


def test_one_layer_error_falls_as_one_over_steps():
    torch.manual_seed(0)
    conv, tail = nn.Conv2d(1, 16, 3, padding=1), (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    net = nn.Sequential(conv, nn.ReLU(), *tail).eval()
    x = torch.rand(64, 1, 8, 8)
    errors = []
    for steps in (4, 8, 16, 32):
        # many iterations put theta above every activation, so only rounding in time is left
        made = replace(PAPER, steps=steps, iterations=2000, batch=64).convert(net, x[:1], x)
        node = next(n for n in made.module.graph if n.op == "integrate")
        seen = {}
        with torch.no_grad():
            made.module(x, visit=lambda n, out, seen=seen: seen.__setitem__(n.name, out) if n.op == "integrate" else None)
            theta = made.thresholds[node.name].reshape(-1, 1, 1)
            rate = seen[node.name].reshape(steps, *x.shape[:1], 16, 8, 8).double().mean(0) * theta
            errors.append(float((rate - torch.relu(net[0](x))).square().mean().sqrt()))
    assert all(1.6 < a / b < 2.4 for a, b in itertools.pairwise(errors)), errors


def test_residual_and_max_pool_nodes():
    x = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    graph = PAPER.convert(small_network(1), x[:1], x).module.graph
    ops = [n.op for n in graph]
    pooled = next(n for n in graph if n.op == "max_pool2d")
    assert graph[pooled.inputs[0]].op == "qconv2d" and graph.consumers()[pooled.name][0].op == "integrate"
    assert ops.count("integrate") == 2 and ops.count("iadd") == 1 and ops.count("isum") == 1
    first = next(n for n in graph if n.op == "integrate")
    assert first.attrs["current_steps"] == 1  # the analog input's current is computed once
    assert all("mult" not in n.weights for n in graph)
    assert not any(n.attrs.get("rule") == "bipolar" for n in graph)


def test_accuracy_over_time_agrees_with_the_module_and_the_window():
    x = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    made = LocalThresholdBalancing(steps=8, iterations=8, delay="paper").convert(small_network(0), x[:1], x)
    with torch.no_grad():
        final = made.module(x)
    assert torch.allclose(logits_over_time(made.module, x)[-1], final, atol=1e-4)
    labels = final.argmax(1)
    curve = accuracy_over_time(made.module, (x, labels))
    assert len(curve) == 8 and curve[-1] == 1.0
    assert curve == accuracy_over_time(made.module, [(x[:15], labels[:15]), (x[15:], labels[15:])])
    rates = spike_rates(made.module, x)
    assert {n.name for n in made.module.graph if n.op == "integrate"} == set(rates)
    assert all(rates[n.name] == pytest.approx(n.spec.rate, abs=1e-5) for n in made.module.graph if n.op == "integrate")
    assert [first_step(16, d) for d in (0, 5, 12, 13, 40)] == [0, 5, 12, 12, 12] and first_step(3, 9) == 0


def test_bad_requests_say_what_to_do():
    net, x = small_network(0), torch.rand(4, 1, 8, 8)
    with pytest.raises(NetwrightError, match="calibration inputs"):
        PAPER.convert(net, x[:1], x[:0])
    with pytest.raises(NetwrightError, match="at least one time step"):
        replace(PAPER, steps=0).convert(net, x[:1], x)
    with pytest.raises(NetwrightError, match="not a spiking network"):
        accuracy_over_time(GraphModule(trace(net, x[:1])), (x, torch.zeros(4)))


def test_digits_reach_97_percent_at_16_steps():
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(labels)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Staged((Stage("conv", 1, 16, 3, 1), Stage("conv", 1, 32, 3, 1)), channels=1, classes=10).build()
        optimiser = torch.optim.AdamW(net.parameters(), 5e-3)
        for _ in range(8):
            for i in torch.randperm(1437).split(64):
                optimiser.zero_grad()
                nn.functional.cross_entropy(net(x[i]), y[i]).backward()
                optimiser.step()
    made = LocalThresholdBalancing().convert(net.eval(), x[:1], x[:512])
    accuracy = accuracy_over_time(made.module, (x[1437:], y[1437:]))
    assert accuracy[-1] >= 0.97, accuracy
