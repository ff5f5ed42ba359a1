"""Neurons: the integer operator, the float models, and what soft reset promises."""

from __future__ import annotations

import pytest
import torch

from netwright.spike import encode, neurons
from netwright.testing.spike import check_encoder, check_neuron


@pytest.mark.parametrize("name", neurons.CATALOGUE)
def test_neuron_contract(name):
    check_neuron(neurons.CATALOGUE[name])


@pytest.mark.parametrize("name", encode.CATALOGUE)
def test_encoder_contract(name):
    check_encoder(encode.CATALOGUE[name]())


def scalar(currents, theta, v0, rule, limit):
    v, spikes = v0, []
    for x in currents:
        v += x
        s = 1 if v >= theta else 0
        if rule == "bipolar" and v <= -theta:
            s = -1
        if rule == "memory" and s and limit and sum(spikes) >= limit:
            s = 0
        if rule == "memory" and v < 0 and sum(spikes) > 0:
            s = -1
        if rule == "burst" and s:
            s = min(v // theta, limit)
        v -= s * theta
        spikes.append(s)
    return spikes, v


@pytest.mark.parametrize("rule, limit", [("if", 0), ("bipolar", 0), ("memory", 0), ("memory", 2), ("burst", 3)])
@pytest.mark.parametrize("current_steps", [1, 7])
def test_integrate_equals_scalar_loop(rule, limit, current_steps):
    g = torch.Generator().manual_seed(3)
    x = torch.randint(-90, 100, (current_steps * 2, 3, 2, 2), generator=g, dtype=torch.int32)
    theta, v0 = torch.tensor([50, 64, 7], dtype=torch.int32), torch.tensor([25, 0, -3], dtype=torch.int32)
    out = torch.ops.netwright.integrate(x, theta, v0, 7, current_steps, rule, limit).reshape(7, 2, 3, 2, 2)
    time = x.reshape(current_steps, 2, 3, 2, 2)
    for n in range(2):
        for c in range(3):
            for i in range(2):
                for j in range(2):
                    given = [int(time[t % current_steps, n, c, i, j]) for t in range(7)]
                    spikes, v = scalar(given, int(theta[c]), int(v0[c]), rule, limit)
                    assert out[:, n, c, i, j].tolist() == spikes
                    assert sum(spikes) * int(theta[c]) + v == sum(given) + int(v0[c])  # soft reset conserves


def test_bipolar_sends_negative_values_and_if_does_not():
    theta = torch.tensor([1.0])
    current = torch.full((100, 1, 1), -0.3)
    assert float(neurons.simulate(neurons.IntegrateAndFire(theta), current).sum()) == 0
    assert float(neurons.simulate(neurons.Bipolar(theta), current).mean()) == pytest.approx(-0.3, abs=0.011)


def test_rounding_error_falls_as_one_over_steps():
    values = torch.linspace(0, 1, 257, dtype=torch.float64)[None]
    neuron = neurons.IntegrateAndFire(torch.ones(257, dtype=torch.float64))
    for steps in (4, 8, 16, 32, 64):
        rate = neurons.simulate(neuron, values.expand(steps, 1, 257)).mean(0)
        worst = float((rate - values).abs().max())
        assert worst <= 0.5 / steps + 1e-12
        assert worst >= 0.4 / steps
