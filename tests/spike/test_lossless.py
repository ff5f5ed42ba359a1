"""Lossless conversion: equality of whole numbers, layer by layer, in PyTorch and in C, and what cannot be converted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from netwright.core.errors import NetwrightError, Unsupported
from netwright.core.graph import Graph, Node, Spec
from netwright.deploy.c99 import build
from netwright.design.execute import GraphModule
from netwright.design.trace import trace
from netwright.spike.convert import Lossless, QuantisedRNN, SpikingRNN
from netwright.spike.convert.lossless import spiking
from netwright.spike.convert.quantised import Quantised, fit_steps
from netwright.spike.encode import Analog
from netwright.spike.unroll import accuracy_over_time, steps_to_rest
from netwright.testing.spike import check_coding, check_converter, small_network

nw = torch.ops.netwright


class Odd(nn.Module):
    """What a region can be: residual sum, grouped and 1x1 convolution, concatenation, sums and maxima of windows, a clip."""

    def __init__(self, width):
        super().__init__()
        groups = 3 if width % 3 == 0 else 1
        self.stem = nn.Conv2d(2, width, 3, padding=1)
        self.a, self.norm = nn.Conv2d(width, width, 3, padding=1, groups=groups, bias=False), nn.BatchNorm2d(width)
        self.b, self.c = nn.Conv2d(width, width + 5, 1), nn.Conv2d(2 * width + 5, 17, 3, padding=1)
        self.d = nn.Conv2d(17, 17, 3, padding=1, groups=17)
        self.fc, self.head = nn.Linear(17 * 4, 33), nn.Linear(33, 7)

    def forward(self, x):
        x = F.avg_pool2d(F.relu(self.stem(x)), 2)
        x = F.relu(x + self.norm(self.a(x)))
        x = torch.cat([x, F.relu(self.b(x))], 1)
        x = F.relu(F.max_pool2d(self.c(x), 2))
        x = F.relu6(self.d(x) + x)
        return self.head(F.relu(self.fc(x.flatten(1))))


def odd(width, seed=0):
    torch.manual_seed(seed)
    net, x = Odd(width), torch.randn(48, 2, 8, 8)
    with torch.no_grad():
        net.train()(x)
    return net.eval(), x


def numbers(graph, x):
    """Counts of the layers of neurons and sums of the output."""
    found = {}

    def visit(node, out):
        if node.op == "integrate":
            found[node.name] = out.reshape(node.attrs["steps"], len(x), *out.shape[1:]).sum(0, dtype=torch.int64)
        elif node.op == "readout":
            found[node.name] = out

    with torch.no_grad():
        GraphModule(graph).eval()(x, visit=visit)
    return found


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("width", [1, 9])
def test_every_count_and_sum_is_that_of_the_quantised_network(width, bits):
    net, x = odd(width, bits)
    converter = Lossless(bits=bits, images=16)
    quantised = converter.prepare(net, x[:1], x)
    made, (graph, _) = converter.finish(quantised, x), quantised.write(x[:1])
    ops = [n.op for n in made.module.graph]
    assert {"accumulate", "max_pool2d", "difference", "cat", "iadd"} <= set(ops)
    wanted, got = numbers(graph, x), numbers(made.module.graph, x)
    assert wanted.keys() == got.keys() and len(wanted) == 7
    assert all((wanted[k] == got[k]).all() for k in wanted)
    assert max(int(v.max()) for k, v in wanted.items() if k != "readout") == 2**bits - 1
    with torch.no_grad():
        assert (made.module(x) == quantised(x)).all()  # what training sees is what is written
        assert (made.module(x) == GraphModule(graph)(x)).all()
        error = (quantised(x) - net(x)).square().mean() / net(x).var()
    assert float(error) < 0.3 / 2**bits


def test_one_step_less_than_needed_is_not_enough():
    net, x = odd(9)
    converter = Lossless(bits=3, images=16)
    quantised = converter.prepare(net, x[:1], x)
    graph, _ = quantised.write(x[:1])
    steps = steps_to_rest(GraphModule(spiking(graph, 40)).eval(), x)
    assert 7 <= int(steps.min()) < int(steps.max()) < 40
    most, wanted = int(steps.max()), numbers(graph, x)

    def same(steps):
        got = numbers(spiking(graph, steps), x)
        return torch.stack([(wanted[k] == got[k]).flatten(1).all(1) for k in wanted]).all(0)

    assert same(most).all()
    assert torch.equal(same(most - 1), steps < most)  # exactly those inputs that were at rest


@pytest.mark.parametrize("width, bits", [(9, 3), (33, 2)])
def test_c_program_gives_the_same_logits(width, bits, tmp_path):
    net, x = odd(width)
    converter = Lossless(bits=bits, images=16)
    quantised = converter.prepare(net, x[:1], x)
    made, (graph, _) = converter.finish(quantised, x), quantised.write(x[:1])
    with torch.no_grad():
        wanted = made.module(x[:8]).numpy()
    for name, form in (("spiking", trace(made.module, x[:1])), ("quantised", graph)):
        compiled = build(form, tmp_path / name)
        got = np.concatenate([np.array(compiled.run_one(one[None].numpy())).reshape(1, -1) for one in x[:8]])
        assert (got == wanted).all(), name


def pulse_summed_twice(channels, size, steps):
    """Codes of the input flow once, are summed twice and changed back, and read out from v0."""
    w = np.ones((channels, 1, 1, 1), np.int8)
    conv = {"stride": [1, 1], "pads": [0] * 4, "dilation": [1, 1], "groups": channels, "lo": -(2**31), "hi": 2**31 - 1, "bits": 8}
    shape = (1, channels, size, size)
    v0 = np.arange(channels, dtype=np.int32) - 3
    nodes = [
        Node("x", "input", (), Spec(shape)),
        Node("codes", "quantize", ("x",), Spec(shape, 8, "int"), {"scale": 1.0, "lo": -127, "hi": 127}),
        Node("current", "qconv2d", ("codes",), Spec(shape, 32, "int"), conv, {"weight": "w"}),
        Node("once", "difference", ("current",), Spec(shape, 32, "int", steps=steps), {"steps": steps, "current_steps": 1}),
        Node("sum", "accumulate", ("once",), Spec(shape, 32, "int", steps=steps), {"steps": steps}),
        Node("sum2", "accumulate", ("sum",), Spec(shape, 32, "int", steps=steps), {"steps": steps}),
        Node("back", "difference", ("sum2",), Spec(shape, 32, "int", steps=steps), {"steps": steps, "current_steps": steps}),
        Node("total", "readout", ("back",), Spec(shape, 32, "int"), {"steps": steps, "start": 0}, {"v0": "v0"}),
        Node("y", "dequantize", ("total",), Spec(shape), {}, {"scale": "s"}),
    ]  # fmt: skip
    params = {"w": Spec(w.shape, 8, "int"), "v0": Spec(v0.shape, 32, "int"), "s": Spec((1,))}
    return Graph(tuple(nodes), ("y",), params, {"w": w, "v0": v0, "s": np.ones(1, np.float32)})


@pytest.mark.parametrize("channels, size, steps", [(1, 1, 2), (3, 5, 7), (31, 1, 3), (33, 2, 1), (64, 1, 7), (65, 3, 2)])
def test_operators_over_time_equal_their_c_kernels(channels, size, steps, tmp_path):
    x = torch.randint(-127, 128, (1, channels, size, size)).float()
    graph = pulse_summed_twice(channels, size, steps)
    with torch.no_grad():
        wanted = GraphModule(graph)(x)
    start = torch.arange(channels).reshape(-1, 1, 1) - 3
    assert torch.equal(wanted, steps * x + start)  # a pulse, summed twice, changes by x in every step
    got = np.array(build(graph, tmp_path).run_one(x.numpy())).reshape(wanted.shape)
    assert (got == wanted.numpy()).all()


def test_analog_input_flows_once():
    check_coding(Analog())
    x = torch.rand(2, 3)
    flow = Analog().encode(x, 4)
    assert torch.equal(flow[0], x) and not flow[1:].any()


def test_difference_undoes_accumulate_and_a_constant_flows_once(generator):
    x = torch.randint(-(2**30), 2**30, (5 * 2, 3, 2), generator=generator, dtype=torch.int32)
    assert torch.equal(nw.difference(nw.accumulate(x // 8, 5), 5, 5), x // 8)
    once = nw.difference(x[:2], 5, 1).reshape(5, 2, 3, 2)
    assert torch.equal(once[0], x[:2]) and not once[1:].any()
    v0 = torch.tensor([1, -2, 3], dtype=torch.int32)
    assert torch.equal(nw.readout(x[:, :, 0] // 8, 5, 0, v0) - nw.readout(x[:, :, 0] // 8, 5, 0), v0.expand(2, -1))


def test_max_pooling_of_sums_beyond_float32():
    x = torch.tensor([2**24, 2**24 + 1, -(2**31), 2**31 - 1], dtype=torch.int32).reshape(1, 1, 1, 4)
    node = Node("p", "max_pool2d", ("x",), Spec((1, 1, 1, 2)), {"kernel": [1, 2], "stride": [1, 2], "padding": [0, 0]})
    module = GraphModule(Graph((Node("x", "input", (), Spec((1, 1, 1, 4))), node), ("p",)))
    assert module(x).flatten().tolist() == [2**24 + 1, 2**31 - 1]


@pytest.mark.parametrize("steps", [4, 8])
def test_converter_contract_with_a_budget_of_steps(steps):
    check_converter(Lossless(bits=3, steps=steps))
    net, x = small_network(0), torch.rand(64, 1, 8, 8)
    made = Lossless(bits=3, steps=steps).convert(net, x[:1], x)
    limits = {n.attrs["limit"] for n in made.module.graph if n.op == "integrate"}
    assert len(limits) == 1 and 1 <= limits.pop() < steps and int(steps_to_rest(made.module, x).max()) < steps


def test_steps_are_counted_and_the_accuracy_over_time_ends_at_the_quantised_networks():
    net, x = small_network(1), torch.rand(64, 1, 8, 8)
    converter = Lossless(bits=2, margin=3)
    made = converter.convert(net, x[:1], x)
    assert made.steps == int(steps_to_rest(made.module, x).max()) + 3 and made.start == 0
    with torch.no_grad():
        labels = converter.prepare(net, x[:1], x)(x).argmax(1)
    assert accuracy_over_time(made.module, (x, labels))[-1] == 1.0
    assert {n.name for n in made.module.graph if n.op == "integrate"} == set(made.thresholds)
    assert all(float(theta.min()) > 0 for theta in made.thresholds.values())
    assert [layer.name for layer in made.layers] == list(made.thresholds) and made.operations > 0
    assert all(0 < layer.error < 0.5 and 0 < layer.rate < 1 and layer.clipped < 0.2 for layer in made.layers)


def test_step_sizes_have_the_least_error_of_their_grid(generator):
    a = torch.rand(2000, 3, generator=generator) * torch.tensor([1.0, 5.0, 0.0])
    q, shift = fit_steps(a, a, 7, torch.full((3,), 1e-6), 3)
    error = (a - q * ((a + shift) / q + 0.5).floor().clamp(0, 7)).square().mean(0)
    assert torch.allclose(error[:2] / q[:2].square(), torch.tensor(1 / 12), rtol=0.1)  # rounding alone: q^2 / 12
    assert torch.allclose(q[:2], torch.tensor([1.0, 5.0]) / 7.5, rtol=0.08) and float(q[2]) > 0


def test_gradients_are_those_of_learned_step_sizes():
    net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Conv2d(1, 1, 1, bias=False))
    nn.init.ones_(net[0].weight), nn.init.ones_(net[2].weight)
    x = torch.tensor([-0.5, 0.1, 0.33, 0.52, 2.0]).reshape(5, 1, 1, 1)
    quantised = Lossless(bits=2, images=5).prepare(net, x[:1], x)
    q = 0.25
    quantised.log_steps[0].data.fill_(np.log(q))
    for i, one in enumerate(x):
        quantised.zero_grad()
        y = quantised(one[None]).sum()
        y.backward()
        z, n = float(x[i]), float(y.detach()) / q
        expected = {0: 0.0, 4: 3.0}.get(i, n - z / q)  # below, above, inside
        assert float(quantised.log_steps[0].grad) / q == pytest.approx(expected, abs=0.1)


def test_training_improves_a_network_and_stays_exact():
    net, x = odd(9)
    y = (x[:, 0].mean((1, 2)) > 0).long()
    calls = []

    def fit(trainee, **stage):
        calls.append(stage)
        optimiser = torch.optim.Adam(trainee.parameters(), stage["lr"])
        losses = []
        for _ in range(30):
            optimiser.zero_grad()
            losses.append(F.cross_entropy(trainee.train()(x), y))
            losses[-1].backward()
            optimiser.step()
        calls.append((losses[0].item(), losses[-1].item()))
        return trainee

    made = Lossless(bits=2, images=16, lr=1e-2).convert(net, x[:1], x, fit=fit)
    assert calls[0] == {"stage": "lossless", "share": 1.0, "lr": 1e-2, "weight_decay": 0.0}
    assert calls[1][1] < 0.8 * calls[1][0]
    assert int(steps_to_rest(made.module, x).max()) < made.steps
    with torch.no_grad():
        assert float(F.cross_entropy(made.module(x), y)) < 0.9 * calls[1][0]


@pytest.mark.parametrize("bits", [2, 3])
def test_recurrent_network_is_exact_when_every_element_rests(bits, generator):
    x = torch.rand(24, 6, 5, generator=generator)
    net = QuantisedRNN(5, (17, 9), 4, bits, Analog().code(x))
    for q in net.recurrent:
        q.data += 0.3 * torch.randn(q.shape, generator=generator)
    net.calibrate(x)
    spikes = SpikingRNN(net)
    with torch.no_grad():
        wanted = net(x)
    sums, steps = spikes.run(x)
    assert (spikes(x) == wanted).all() and (sums * spikes.scale == wanted).all()
    assert steps.shape == (24, 6) and 2**bits - 1 <= int(steps.max()) < 40
    assert float(wanted.std(0).min()) > 0 and len(wanted.unique()) > 24
    enough = SpikingRNN(net, steps=int(steps.max()))
    assert (enough(x) == wanted).all() and not (SpikingRNN(net, steps=2)(x) == wanted).all()
    net(x).square().sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in net.parameters())


def test_bad_requests_say_what_to_do():
    net, x = odd(1)
    for bits in (0, 8):
        with pytest.raises(NetwrightError, match="1 to 7 bits"):
            Lossless(bits=bits)
    with pytest.raises(NetwrightError, match="margin >= 1"):
        Lossless(margin=0)
    with pytest.raises(NetwrightError, match="calibration inputs"):
        Lossless().convert(net, x[:1], x[:0])
    with pytest.raises(NetwrightError, match="still spikes in step 3"):
        Lossless(bits=3, images=16, steps=3).finish(Lossless(bits=3, images=16).prepare(net, x[:1], x), x)
    with pytest.raises(NetwrightError, match="1 to 7 bits"):
        QuantisedRNN(4, (8,), 2, 8, (1.0, 0, 255))
    linear = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)).eval()
    deep = nn.Sequential(linear[0], nn.Hardtanh(), linear[2])
    with pytest.raises(Unsupported, match=r"linear point.*negative values"):
        Lossless().convert(deep, x[:1], x)
    with pytest.raises(Unsupported, match="'softmax'"):
        Lossless().convert(nn.Sequential(linear[0], nn.Softmax(1)), x[:1], x)
    assert isinstance(replace(Lossless(), bits=2).prepare(net, x[:1], x), Quantised)


def test_input_beside_spikes_is_refused():
    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(5, 4, 3)

        def forward(self, x):
            return self.b(torch.cat([x, F.relu(self.a(x))], 1))

    x = torch.rand(8, 2, 8, 8)
    with pytest.raises(Unsupported, match="linear point"):  # codes of the input would need neurons of both signs
        Lossless().convert(Beside(), x[:1], x)
