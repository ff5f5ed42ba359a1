"""Training spiking networks: norms, fewer steps, filtered outputs, liquids, and what tells that a network is ill."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import signal
from torch import nn
from torch.nn import functional as F

from netwright.bench.spike.training import movement, moving_error, recording, ridge
from netwright.core.errors import NetwrightError
from netwright.spike import norms
from netwright.spike.encode import Rate
from netwright.spike.filtering import Bessel, r2
from netwright.spike.layers import Firing, OverTime, Spiking, firing, repeat
from netwright.spike.liquid import Liquid, contrastive, resistive
from netwright.spike.neurons import LIF, PLIF
from netwright.spike.norms import CaReBN, ThresholdBN, recalibrate
from netwright.spike.norms.care import merged
from netwright.spike.reduction import IterativeReduction, SpikingTwin

# -- norms --------------------------------------------------------------------------------------------------------------


def currents(generator, *shape):
    return 3 * torch.randn(*shape, generator=generator) + 2


@pytest.mark.parametrize("name", norms.CATALOGUE)
@pytest.mark.parametrize("shape", [(4, 8, 5), (4, 8, 5, 3, 3)])
def test_norm_contract(name, shape, generator):
    norm, x = norms.CATALOGUE[name](5), currents(generator, *shape)
    y, dims = norm.train()(x), [d for d in range(len(shape)) if d != 2]
    assert y.shape == x.shape and y.dtype == x.dtype
    assert torch.allclose(y.mean(dims), norm.beta, atol=1e-5)
    assert torch.allclose(y.std(dims, correction=0), norm.gain * norm.gamma, atol=1e-4)
    for _ in range(200):
        norm(x)
    assert torch.allclose(norm.eval()(x), y, atol=3e-2)  # moving statistics of a constant stream are its own
    (grad,) = torch.autograd.grad(norm.train()(x.requires_grad_()).sum(), x)
    assert float(grad.abs().max()) < 1e-4  # through the batch's statistics: the sum does not depend on x


@pytest.mark.parametrize("name", norms.CATALOGUE)
@pytest.mark.parametrize("layer", [
    nn.Linear(6, 5), nn.Linear(6, 5, bias=False), nn.Conv2d(6, 5, 3, 2, 1, bias=False),
    nn.Conv2d(6, 5, 1), nn.Conv2d(5, 5, 3, groups=5),
], ids=repr)  # fmt: skip
def test_norms_fold_into_the_layer_before(name, layer, generator):
    norm = norms.CATALOGUE[name](5, theta=0.7)
    inputs = layer.weight.shape[1] * getattr(layer, "groups", 1)
    x = currents(generator, 4, 3, inputs, *([7, 7] if isinstance(layer, nn.Conv2d) else []))
    with torch.no_grad():
        norm.gamma.uniform_(0.5, 2)
        for _ in range(3):
            norm.train()(OverTime(layer)(x))
        assert torch.allclose(OverTime(norm.folded(layer))(x), norm.eval()(OverTime(layer)(x)), atol=1e-4)
    with pytest.raises(NetwrightError, match="channels"):
        norms.CATALOGUE[name](4).folded(layer)


def test_threshold_norm_scales_with_the_threshold(generator):
    x = currents(generator, 4, 64, 5)
    for theta, alpha in ((1.0, 1.0), (0.5, 2**-0.5)):
        assert float(ThresholdBN(5, theta, alpha).train()(x).detach().std()) == pytest.approx(theta * alpha, rel=0.01)


def test_care_norm_is_its_equations(generator):
    norm, n = CaReBN(2), 6
    mean, var, p, q = torch.zeros(2), torch.ones(2), torch.zeros(2), torch.zeros(2)
    for _ in range(5):
        x = currents(generator, 3, n, 2)
        norm.train()(x)
        m, v = x.mean((0, 1)), x.var((0, 1), correction=0)
        p = 0.8 * p + 0.2 * (m - mean) ** 2
        q = 0.8 * q + 0.2 * (v - var) ** 2
        mean, var = mean + p / (p + v / (n - 1)) * (m - mean), var + q / (q + 2 * v**2 / (n - 1)) * (v - var)
        assert torch.allclose(norm.mean, mean, atol=1e-5) and torch.allclose(norm.var, var, atol=1e-4)


def test_care_norm_follows_jumps_and_pays_for_it_where_nothing_moves():
    jumps = 2 * torch.randn(8, 4, generator=torch.Generator().manual_seed(1)).repeat_interleave(40, 0)
    error = {
        (kind, name): moving_error(norm, means, 64, torch.Generator().manual_seed(0))
        for kind, means in (("jumps", jumps), ("still", torch.zeros(200, 4)))
        for name, norm in (("care", CaReBN(4)), *((m, ThresholdBN(4, momentum=m)) for m in (0.1, 0.5, 0.9)))
    }
    assert error["jumps", "care"] < 0.8 * min(error["jumps", m] for m in (0.1, 0.5, 0.9))
    assert error["jumps", "care"] < 0.1 * error["jumps", 0.1]
    assert error["still", 0.1] < error["still", "care"] < error["still", 0.5]


def test_recalibration_is_exact_over_all_batches(generator):
    net = nn.Sequential(CaReBN(3), Spiking(LIF()), OverTime(nn.Linear(3, 2)), nn.Dropout(0.5), CaReBN(2))
    batches = [currents(generator, 4, 8, 3) for _ in range(7)]
    net[1].eval()
    recalibrate(net, batches)
    whole = torch.cat(batches, 1)
    assert torch.allclose(net[0].mean, whole.mean((0, 1)), atol=1e-5)
    assert torch.allclose(net[0].var, whole.var((0, 1), correction=0), rtol=1e-4)
    assert net[0].training and not net[1].training and net[0].seen is None and float(net[4].var.sum()) > 0
    for module, data in ((net, []), (nn.Linear(3, 3), batches)):
        with pytest.raises(NetwrightError, match="at least one batch"):
            recalibrate(module, data)
    seen = (0, torch.zeros(1), torch.zeros(1))
    for part in (torch.tensor([[1.0], [3.0]]), torch.tensor([[7.0], [9.0]])):
        seen = merged(seen, part.mean(0), part.var(0, correction=0))
    assert seen[0] == 2 and float(seen[1]) == 5 and float(seen[2]) == 10


# -- fewer time steps ---------------------------------------------------------------------------------------------------


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(F.avg_pool2d(F.relu(self.norm(self.conv(x))), 8).flatten(1))


def test_a_twin_takes_its_thresholds_from_the_currents(generator):
    ann, x = Functional().eval(), torch.rand(32, 1, 8, 8, generator=generator)
    twin = SpikingTwin(ann, x[:1], steps=3)
    twin.calibrate(x, 90.0)
    (layer,) = twin.neurons
    with torch.no_grad():
        z = ann.norm(ann.conv(x))
        assert float(layer.neuron.theta) == pytest.approx(float(torch.quantile(z, 0.9)), rel=1e-3)
        assert float((z > layer.neuron.theta).float().mean()) == pytest.approx(0.1, abs=0.01)
        v, spikes = torch.zeros_like(z), 0.0
        for _ in range(3):  # the same current in every step, integrated without a leak
            v = v + z
            s = (v >= layer.neuron.theta).float()
            v, spikes = v - layer.neuron.theta * s, spikes + s / 3
        expected = ann.head(F.avg_pool2d(spikes, 8).flatten(1))
        assert torch.allclose(twin(x), expected, atol=1e-5)
    assert layer.percentile is None
    with pytest.raises(NetwrightError, match="at least 1"):
        twin.steps = 0
    with pytest.raises(NetwrightError, match="no relu"):
        SpikingTwin(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), x[:1])


def test_reduction_starts_each_training_from_the_one_before(generator):
    x, y = torch.rand(96, 1, 8, 8, generator=generator), torch.arange(96) % 4
    for c in range(4):
        x[y == c, :, 2 * c : 2 * c + 2] += 1  # which rows are bright tells the class
    ann, calls = Functional().eval(), []
    ann.head = nn.Linear(6 * 16, 4)
    ann.forward = lambda x: ann.head(F.avg_pool2d(F.relu(ann.norm(ann.conv(x))), 2).flatten(1))

    def fit(network, *, stage, share, lr, weight_decay):
        calls.append((stage, share, {k: v.clone() for k, v in network.state_dict().items()}))
        network.train()
        for _ in range(12):
            loss = F.cross_entropy(network(x), y)
            grads = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
            with torch.no_grad():
                for p, g in zip(network.parameters(), grads, strict=True):
                    if g is not None:
                        p -= 0.3 * g
        return network

    found = IterativeReduction(steps=(3, 2, 1)).train(ann, x[:1], x, fit)
    assert [n.steps for n in found] == [3, 2, 1] and not any(n.training for n in found)
    assert [c[0] for c in calls] == ["T = 3", "T = 2", "T = 1"] and sum(c[1] for c in calls) == pytest.approx(1)
    for made, (_, _, begun) in zip(found, calls[1:], strict=False):
        assert all(torch.equal(v, begun[k]) for k, v in made.state_dict().items())
    accuracy = float((found[-1](x).argmax(1) == y).float().mean())
    assert accuracy > 0.9
    thetas = [[n.neuron.theta.item() for n in twin.neurons] for twin in found]
    leaks = [[n.neuron.leak.item() for n in twin.neurons] for twin in found]
    assert thetas[0] != thetas[-1] and leaks[0] != [1.0] and leaks[-1] == leaks[-2]  # one step does not leak


# -- filtered outputs ---------------------------------------------------------------------------------------------------


def test_a_filter_streams_and_keeps_constants(generator):
    bessel, x = Bessel(0.05), torch.randn(90, 3, 2, generator=generator, dtype=torch.float64)
    whole, _ = bessel.filter(x)
    parts, state = [], None
    for part in (x[:1], x[1:40], x[40:]):
        y, state = bessel.filter(part, state)
        parts.append(y)
    assert torch.equal(torch.cat(parts), whole)
    later = x.clone()
    later[50:] += 1
    assert torch.equal(bessel.filter(later)[0][:50], whole[:50])  # causal
    ones = torch.ones(40, 1, 1)
    assert torch.allclose(bessel.filter(3 * ones)[0], 3 * ones) and torch.allclose(bessel.blocks(3 * ones, 16, 4), 3 * ones)


@pytest.mark.parametrize("order", [1, 2, 4, 5])
def test_the_filter_is_scipys_with_the_stated_cutoff_and_delay(order):
    bessel = Bessel(0.04, order)
    impulse = torch.zeros(400, 1, 1, dtype=torch.float64)
    impulse[1] = 1.0  # behind a silent step: the state at the start is that of silence
    response = bessel.filter(impulse)[0].flatten().numpy()[1:]
    assert np.allclose(response, signal.sosfilt(bessel.sections, np.eye(1, 399)[0]))
    gain = abs(np.exp(-2j * np.pi * 0.04 * np.arange(399)) @ response)
    assert gain == pytest.approx(2**-0.5, rel=1e-3) and response.sum() == pytest.approx(1, abs=1e-6)
    assert bessel.delay == pytest.approx((np.arange(399) @ response), rel=1e-3)


def test_blocks_look_ahead_and_are_causal_without(generator):
    bessel, x = Bessel(0.05), torch.randn(120, 2, 2, generator=generator, dtype=torch.float64)
    assert torch.allclose(bessel.blocks(x, 40, 0)[:40], bessel.filter(x)[0][:40])
    y = bessel.blocks(x, 40, 8)
    later = x.clone()
    later[60:] += 5
    moved = bessel.blocks(later, 40, 8)
    assert torch.equal(moved[:52], y[:52]) and not torch.equal(moved[52], y[52])
    for bad in (-1, 40):
        with pytest.raises(NetwrightError, match="block of 40"):
            bessel.blocks(x, 40, bad)
    with pytest.raises(NetwrightError, match="cutoff"):
        Bessel(0.6)


def test_filtering_improves_what_a_decoder_reads_from_spikes(generator):
    """Least squares on low-passed spikes is the decoder; the network that is trained stands in the benchmark."""
    truth = movement(600, 4, generator)
    directions = 2 * torch.pi * torch.rand(32, generator=generator)
    x = recording(truth, directions, generator)
    w = torch.linalg.lstsq(x[:300].flatten(0, 1), truth[:300].flatten(0, 1)).solution
    estimate, wanted = (x @ w)[300:], truth[300:]
    plain = r2(estimate, wanted)
    causal, ahead = r2(Bessel(0.02).filter(estimate)[0], wanted), r2(Bessel(0.02).blocks(estimate, 128, 24), wanted)
    assert plain + 0.1 < causal < ahead
    assert r2(wanted, wanted) == 1 and r2(wanted.mean((0, 1)).expand_as(wanted), wanted) == pytest.approx(0, abs=1e-5)


# -- liquids ------------------------------------------------------------------------------------------------------------


def test_resistive_weights_have_unit_sums(generator):
    for formed, spread in ((0.2, 0.5), (1.0, 1.0), (0.05, 0.1)):
        w = resistive((400, 500), generator, formed, spread)
        assert float(w.var() * 500) == pytest.approx(1, rel=0.1) and float(w.mean().abs()) < 0.01
        assert float((w == 0).float().mean()) == pytest.approx((1 - formed) ** 2, abs=0.01)


def test_a_liquid_is_fixed_and_remembers_order(generator):
    liquid = Liquid(4, 128, torch.Generator().manual_seed(3))
    again = Liquid(4, 128, torch.Generator().manual_seed(3))
    x = (torch.rand(20, 5, 4, generator=generator) < 0.4).float()
    assert torch.equal(liquid(x), again(x)) and not list(liquid.parameters())
    assert 0 < float(liquid.spikes(x).mean()) < 0.9
    assert torch.equal(liquid(x[:, :1]), liquid(x)[:1])
    # the same spikes backwards have the same counts: only the liquid can tell them apart
    one = torch.rand(10, 1, 4, generator=generator)
    way = torch.arange(200) % 2
    p = torch.where(way[None, :, None] == 1, one.flip(0), one)
    events = Rate().encode(p, 1, generator)[0]
    split = slice(0, 100), slice(100, 200)

    def score(features):
        return ridge((features[split[0]], way[split[0]]), (features[split[1]], way[split[1]]))

    assert score(liquid(events)) > 0.75 > 0.65 > score(events.sum(0))


def test_contrastive_projections_find_partners_that_they_have_not_seen(generator):
    a, same = torch.randn(16, 8, generator=generator), torch.ones(16, 8)
    assert float(contrastive(a, 3 * a)) < 0.1 < float(contrastive(a, a.roll(1, 0)))
    assert float(contrastive(same, same)) == pytest.approx(np.log(16), rel=1e-4)
    # 40 things, seen and heard: events of one liquid go with those of another; projections learn on 30 and match the other ten
    things = torch.rand(10, 40, 4, generator=generator)
    states = []
    for seed, p in enumerate((things, 1 - things.flip(2))):
        liquid, events = Liquid(4, 96, torch.Generator().manual_seed(seed)), Rate().encode(p.repeat(1, 8, 1), 1, generator)[0]
        z = liquid(events).unflatten(0, (8, 40)).mean(0)  # of eight presentations
        states.append((z - z[:30].mean(0)) / z[:30].std(0).clamp(min=0.1))
    weights = [torch.empty(96, 16).normal_(0, 0.1, generator=generator).requires_grad_() for _ in states]
    for _ in range(100):
        loss = contrastive(states[0][:30] @ weights[0], states[1][:30] @ weights[1])
        grads = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for w, g in zip(weights, grads, strict=True):
                w -= 0.1 * g
    with torch.no_grad():
        left, right = (F.normalize(z[30:] @ w, dim=1) for z, w in zip(states, weights, strict=True))
    found = float(((left @ right.T).argmax(1) == torch.arange(10)).float().mean())
    assert found >= 0.5  # by chance 0.1


# -- what is wrong with a network ---------------------------------------------------------------------------------------


def test_firing_tells_of_dead_saturated_and_exploding_layers():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.well, self.mute = Spiking(LIF()), Spiking(LIF(theta=100.0))
            self.loud, self.wild = Spiking(PLIF(reset="none")), Spiking(LIF(tau=1e9, decay_input=False))

        def forward(self, x):
            x = repeat(x, 6)
            return self.well(x) + self.mute(x) + self.loud(100 * x) + self.wild(1e4 * x)

    found = firing(net := Net().train(), torch.linspace(0.6, 3.0, 24).reshape(4, 6))
    assert net.training and set(found) == {"well", "mute", "loud", "wild"}
    assert found["well"].troubles() == [] and 0 < found["well"].rate < 1
    assert found["mute"].troubles() == ["never fires"] and found["mute"].dead == 1
    assert found["loud"].saturated == 1 and "every step" in found["loud"].troubles()[0]
    assert any("potential reaches" in t for t in found["wild"].troubles())
    assert Firing(0.1, 0.6, 0.0, 1.0).troubles() == ["60% of the neurons never fire"]
    assert Firing(0.1, 0.0, 0.0, float("nan")).troubles() == ["a potential reaches nan"]
    with pytest.raises(NetwrightError, match="Spiking"):
        firing(nn.Linear(2, 2), torch.zeros(1, 2))
