"""Neurons: the integer operator, the float models, and what soft reset promises."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from netwright.core.errors import NetwrightError
from netwright.design import trace
from netwright.design.execute import GraphModule
from netwright.spike import neurons, synapses
from netwright.spike.layers import OverTime, Spiking, repeat
from netwright.spike.neurons import LIF, PLIF, AdaptiveLIF, Delayed, DietLIF, SlidingPSN, linear_scan, simulate, unroll
from netwright.spike.synapses import STDP, Dale, ShortTermPlasticity
from netwright.testing.spike import check_dynamics, check_neuron

DELAYS = torch.tensor([0, 2, 5])


def of_thresholds(name):
    """Whether the neuron is made of thresholds [C], as converted networks use it."""
    cls = neurons.CATALOGUE[name]
    return dataclasses.is_dataclass(cls) and "theta" in {
        f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING
    }


def made(name):
    if name == "delayed":
        return Delayed(LIF(), DELAYS)
    cls = neurons.CATALOGUE[name]
    return cls(torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)) if of_thresholds(name) else cls()


@pytest.mark.parametrize("name", [n for n in neurons.CATALOGUE if of_thresholds(n)])
def test_neuron_contract(name):
    check_neuron(neurons.CATALOGUE[name])


@pytest.mark.parametrize("name", neurons.CATALOGUE)
def test_dynamics_contract(name):
    check_dynamics(made(name))


@pytest.mark.parametrize("neuron", [
    LIF(reset="none"), LIF(tau=20.0, reset="none", decay_input=False), LIF(reset="hard"), LIF(detach_reset=False),
    PLIF(reset="none"), PLIF(reset="hard", decay_input=False), AdaptiveLIF(tau=2.0, beta=3.0, reset="hard"),
    SlidingPSN(order=2), SlidingPSN(order=30), Delayed(LIF(reset="none"), DELAYS), Delayed(SlidingPSN(), torch.tensor([3])),
    Delayed(Delayed(DietLIF(), DELAYS), DELAYS), Delayed(LIF(), torch.tensor([0])),
], ids=repr)  # fmt: skip
def test_dynamics_contract_of_variants(neuron):
    check_dynamics(neuron)


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


def loop(currents, tau, theta, reset, decay_input):
    """LIF in plain numbers: spikes and potentials."""
    v, spikes, potentials = 0.0, [], []
    for x in currents:
        v = (1 - 1 / tau) * v + (x / tau if decay_input else x)
        s = int(v >= theta)
        v = {"soft": v - theta * s, "hard": v * (1 - s), "none": v}[reset]
        spikes.append(s)
        potentials.append(v)
    return spikes, potentials


@pytest.mark.parametrize("reset", ["soft", "hard", "none"])
@pytest.mark.parametrize("decay_input", [True, False])
def test_lif_is_its_equation(reset, decay_input, generator):
    current = torch.randn(50, 1, 1, generator=generator, dtype=torch.float64) + 1
    expected, potentials = loop(current.flatten().tolist(), 3.0, 0.8, reset, decay_input)
    for neuron in (LIF(3.0, 0.8, reset, True, decay_input), PLIF(3.0, 0.8, reset, True, decay_input).double()):
        with torch.no_grad():
            spikes, v = unroll(neuron, current)
        assert spikes.flatten().int().tolist() == expected and float(v) == pytest.approx(potentials[-1], abs=1e-6)
    assert 0 < sum(expected) < 50


def test_lif_never_reaches_a_threshold_above_a_constant_current():
    current = torch.tensor([0.99, 1.01]).expand(200, 1, 2)
    assert simulate(LIF(tau=5.0), current).sum((0, 1)).tolist()[0] == 0
    assert simulate(LIF(tau=5.0), current).sum((0, 1)).tolist()[1] > 0


def test_the_leak_of_plif_is_learnt():
    current = torch.linspace(0.1, 0.5, 33)[:, None].expand(30, 33, 1)  # leads to a potential of tau times itself
    target = simulate(LIF(tau=6.0, reset="none", decay_input=False), current)
    neuron = PLIF(tau=2.0, reset="none", decay_input=False)
    for _ in range(60):
        (grad,) = torch.autograd.grad((simulate(neuron, current) - target).square().mean(), neuron.w)
        with torch.no_grad():
            neuron.w -= 0.1 * torch.sign(grad)
    assert float(neuron.tau.detach()) == pytest.approx(6.0, abs=0.6)


def test_detached_reset_passes_no_gradient():
    x = torch.full((2, 1, 1), 1.5, requires_grad=True)
    grads = {}
    for detach in (True, False):
        s, _ = unroll(LIF(tau=1.0, detach_reset=detach), x)  # without memory of the potential but for the reset
        grads[detach] = torch.autograd.grad(s[1].sum(), x)[0][0].item()
    s, _ = unroll(LIF(tau=2.0, decay_input=False, detach_reset=False), x)
    (through,) = torch.autograd.grad(s[1].sum(), x)
    s, _ = unroll(LIF(tau=2.0, decay_input=False, detach_reset=True), x)
    (around,) = torch.autograd.grad(s[1].sum(), x)
    assert grads == {True: 0.0, False: 0.0} and float(through[0]) != float(around[0])


def test_adaptation_slows_a_neuron_down():
    current = torch.full((400, 1, 1), 3.0)
    spikes = simulate(AdaptiveLIF(tau=5.0, beta=5.0, tau_adaptation=50.0), current).flatten()
    plain = simulate(LIF(tau=5.0), current).flatten()
    assert float(spikes[:50].sum()) > 1.3 * float(spikes[-50:].sum()) > 0
    assert float(plain[-50:].sum()) > float(spikes[:50].sum())


def test_delays_shift_each_channel():
    current = torch.zeros(9, 1, 3)
    current[1] = 2.0
    spikes = simulate(Delayed(LIF(tau=1.0), DELAYS), current)
    assert [spikes[:, 0, c].nonzero().flatten().tolist() for c in range(3)] == [[1], [3], [6]]
    with pytest.raises(NetwrightError, match="whole numbers"):
        Delayed(LIF(), torch.tensor([0.5]))


@pytest.mark.parametrize("steps", [1, 2, 7, 64, 100])
def test_linear_scan_equals_the_loop(steps, generator):
    x, start = torch.randn(steps, 2, 3, generator=generator, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)
    decays = {
        "number": 0.9, "channel": torch.tensor([0.1, 0.9, 1.0], dtype=torch.float64),
        "time": torch.rand(steps, 2, 3, generator=generator, dtype=torch.float64),
    }  # fmt: skip
    for kind, decay in decays.items():
        h, expected = start, []
        for t in range(steps):
            h = (decay[t] if kind == "time" else decay) * h + x[t]
            expected.append(h)
        assert torch.allclose(linear_scan(decay, x, start), torch.stack(expected), rtol=1e-12, atol=1e-12)
    assert torch.allclose(linear_scan(0.5, x), linear_scan(0.5, x, torch.zeros_like(start)))


def test_neurons_without_a_parallel_form_say_so():
    with pytest.raises(NetwrightError, match="cannot be computed at once"):
        LIF().scan(torch.zeros(2, 1, 1), torch.zeros(1, 1))
    with pytest.raises(NetwrightError, match=r"tau = 0\.5"):
        LIF(tau=0.5)
    with pytest.raises(NetwrightError, match="must be above 1"):
        PLIF(tau=1.0)


class Small(nn.Module):
    def __init__(self, neuron):
        super().__init__()
        self.first, self.spiking = OverTime(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)), Spiking(neuron)
        self.second = OverTime(nn.Flatten(), nn.Linear(144, 5))

    def forward(self, x):
        return self.second(self.spiking(self.first(repeat(x, 4)))).mean(0)


@pytest.mark.parametrize("neuron", [LIF(), LIF(reset="none"), PLIF(reset="hard")], ids=repr)
def test_a_spiking_module_trains_and_is_traced(neuron):
    net = Small(neuron)
    net(torch.rand(3, 1, 8, 8)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())
    assert float(net.first.layer[0].weight.grad.abs().sum()) > 0
    net, x = net.eval(), torch.rand(1, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(torch.export.export(net, (x,), strict=False).module()(x), net(x))
        assert torch.allclose(GraphModule(trace(net, x)).eval()(x), net(x), atol=1e-6)


@pytest.mark.parametrize("name", synapses.CATALOGUE)
def test_synapses_name_their_papers(name):
    assert synapses.CATALOGUE[name].paper.year and "S224" in {p.id for p in synapses.CATALOGUE[name].also}


def test_short_term_plasticity_steps_equal_scan(generator):
    spikes = (torch.rand(40, 2, 3, generator=generator, dtype=torch.float64) < 0.4).double().requires_grad_()
    for synapse in (ShortTermPlasticity(), ShortTermPlasticity(0.15, 20.0, 5.0), ShortTermPlasticity(1.0, 1.0, 1.0)):
        state, released = synapse.start(spikes[0]), []
        for s in spikes:
            r, state = synapse.step(s, state)
            released.append(r)
        scanned, last = synapse.scan(spikes)
        assert torch.allclose(scanned, torch.stack(released), atol=1e-14)
        assert torch.allclose(last.u, state.u) and torch.allclose(last.x, state.x)
        piece, _ = synapse.scan(spikes[25:], synapse.scan(spikes[:25])[1])
        assert torch.allclose(piece, scanned[25:])
        grads = [torch.autograd.grad(r.sum(), spikes)[0] for r in (torch.stack(released), scanned)]
        assert torch.allclose(*grads)


def test_synapses_depress_or_facilitate():
    train = torch.ones(10, 1, 1, dtype=torch.float64)
    depressing, facilitating = (s.scan(train)[0].flatten() for s in (ShortTermPlasticity(), ShortTermPlasticity(0.1, 750.0, 1.0)))
    assert float(depressing[0]) == pytest.approx(0.45) and bool((depressing.diff() < 0).all())
    assert float(facilitating[0]) == pytest.approx(0.1) and bool((facilitating[:4].diff() > 0).all())
    # depressing without facilitation settles where a spike releases what recovers: r = U x-, x- = 1 - d (1 - x- (1 - U))
    still = ShortTermPlasticity(0.5, 1e-6, 10.0).scan(torch.ones(400, 1, 1, dtype=torch.float64))[0][-1]
    d = math.exp(-0.1)
    assert float(still) == pytest.approx(0.5 * (1 - d) / (1 - d * 0.5))


def test_dales_law_holds_through_training(generator):
    for layer in (nn.Linear(10, 4), nn.Conv2d(10, 4, 3)):
        law = Dale.drawn(10, generator)
        before = layer.weight.detach().clone()
        law.on(layer)
        assert torch.equal(layer.weight.abs(), before.abs()) and int((law.signs > 0).sum()) == 8
        optimiser = torch.optim.SGD(layer.parameters(), 0.3)
        x = torch.randn(8, *layer.weight.shape[1:], generator=generator)
        for _ in range(20):
            optimiser.zero_grad()
            layer(x).square().sum().backward()
            optimiser.step()
            signs = law.signs.reshape(1, -1, *[1] * (before.dim() - 2))
            assert bool((layer.weight * signs >= 0).all())
        assert not torch.equal(layer.weight.abs(), before.abs())
    with pytest.raises(NetwrightError, match="for 10 inputs"):
        Dale.drawn(10, generator).on(nn.Linear(9, 2))


def test_stdp_is_the_sum_over_pairs(generator):
    rule = STDP(0.01, 0.012, 7.0, 13.0)
    pre = (torch.rand(30, 2, 3, generator=generator) < 0.3).double()
    post = (torch.rand(30, 2, 4, generator=generator) < 0.3).double()
    expected = torch.zeros(4, 3, dtype=torch.float64)
    for a in range(30):
        for b in range(30):
            if a != b:  # post at a, pre at b
                worth = 0.01 * math.exp(-(a - b) / 7) if a > b else -0.012 * math.exp(-(b - a) / 13)
                expected += worth * torch.einsum("no,ni->oi", post[a], pre[b]) / 2
    state, change = rule.start(pre[0], post[0]), torch.zeros(4, 3, dtype=torch.float64)
    for x, y in zip(pre, post, strict=True):
        step, state = rule.step(x, y, state)
        change = change + step
    assert torch.allclose(change, expected) and torch.allclose(rule.scan(pre, post), expected)
