"""Reading any traced module: what converts exactly, what by approximation and how well, and what is refused with its reason."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from netwright.core.errors import MissingExtra, NetwrightError
from netwright.design.execute import GraphModule
from netwright.design.trace import trace
from netwright.design.zoo import timm_model
from netwright.spike.convert import ChannelPercentile, approximate, unsupported
from netwright.spike.convert.balance import activation
from netwright.spike.convert.pieces import pieces
from netwright.spike.convert.read import read

C = 8


class Net(nn.Module):
    """`f(layers, x)`, whatever that is."""

    def __init__(self, f, *layers):
        super().__init__()
        self.layers, self.f = nn.ModuleList(layers), f

    def forward(self, x):
        return self.f(self.layers, x)


def conv(i=C, o=C, k=3, **kw):
    return nn.Conv2d(i, o, k, padding=kw.pop("padding", k // 2), **kw)


def between(f):
    """conv - f - conv."""
    return Net(lambda m, x: m[1](f(m[0](x))), conv(), conv())


def after(f, i=C, **kw):
    """conv - relu - f - conv: `f` moves or pools what a rectifier gives."""
    return Net(lambda m, x: m[1](f(m[0](x).relu())), conv(), conv(i, C, **kw))


def up(**kw):
    return Net(lambda m, x: m[1](torch.relu(m[0](torch.relu(m[2](x))))), nn.ConvTranspose2d(C, C, **kw), conv(), conv())


def pooled(f):
    return Net(lambda m, x: m[1](f(m[0](x).relu())), conv(), nn.Linear(C, 5))


def preactivation():
    def f(m, x):
        y = m[0](x)
        return m[3](torch.relu(y + m[2](torch.relu(m[1](y.relu())))))

    return Net(f, conv(), conv(), conv(), conv())


# name: (network, bipolar layers)
EXACT = {
    "functional relu": (between(F.relu), 0), "method relu": (between(lambda x: x.relu()), 0), "relu_": (between(F.relu_), 0),
    "clamp": (between(lambda x: x.clamp(min=0)), 0), "clamp 0 to 3": (between(lambda x: x.clamp(0, 3)), 0),
    "relu6": (between(F.relu6), 0), "hardtanh": (between(F.hardtanh), 1),
    "reused": (Net(lambda m, x: m[1](m[0](m[1](m[0](x)))), conv(), nn.ReLU()), 0),
    "residual": (Net(lambda m, x: m[1](torch.relu(x + m[0](x)) + 0.5 * torch.relu(m[0](x))), conv(), conv()), 0),
    "pre-activation": (preactivation(), 1),
    "max pool": (between(lambda x: F.max_pool2d(x.relu(), 3, 2, 1)), 0),
    "max pool after a sum": (Net(lambda m, x: m[1](F.max_pool2d(torch.relu(x + m[0](x)), 2)), conv(), conv()), 0),
    "max pool of parts": (Net(lambda m, x: m[2](F.max_pool2d(torch.cat([m[0](x).relu(), m[1](x).relu()], 1), 2)), conv(),
                              conv(), conv(2 * C)), 0),
    "global max pool": (pooled(lambda x: x.amax((2, 3))), 0),
    "adaptive max pool": (after(lambda x: F.adaptive_max_pool2d(x, 4)), 0),
    "average pool": (after(lambda x: F.avg_pool2d(x, 2)), 0),
    "average pool of a sum": (between(lambda x: F.avg_pool2d(x, 2).relu()), 0),
    "adaptive pool": (after(lambda x: F.adaptive_avg_pool2d(x, 4)), 0), "mean": (pooled(lambda x: x.mean((2, 3))), 0),
    "mean twice": (pooled(lambda x: x.mean(-1).mean(-1)), 0), "mean of flat": (pooled(lambda x: x.flatten(2).mean(2)), 0),
    "sum": (pooled(lambda x: x.sum((2, 3))), 0),
    "squeeze": (pooled(lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1)), 0),
    "mean of channels": (after(lambda x: x.mean(1, keepdim=True), 1), 0),
    "view": (Net(lambda m, x: m[1](m[0](x).relu().view(-1, C * 64)), conv(), nn.Linear(C * 64, 5)), 0),
    "concatenation": (Net(lambda m, x: m[1](torch.cat([m[0](x).relu(), m[0](x).relu()], 1)), conv(), conv(2 * C)), 0),
    "rows joined": (after(lambda x: torch.cat([x[:, :, 4:], x[:, :, :4]], 2)), 0),
    "halves": (Net(lambda m, x: m[1](torch.cat([a.relu() for a in m[0](x).chunk(2, 1)], 1)), conv(), conv()), 0),
    "channel shuffle": (after(lambda x: x.view(-1, 2, 4, 8, 8).transpose(1, 2).reshape(-1, C, 8, 8), groups=2, i=C), 0),
    "channels chosen": (after(lambda x: x[:, [3, 1, 0, 2, 7, 6, 5, 4]]), 0), "flip": (after(lambda x: x.flip((1, 2))), 0),
    "crop": (after(lambda x: x[:, :, 1:-1, ::2]), 0), "pixel unshuffle": (after(lambda x: F.pixel_unshuffle(x, 2), 4 * C), 0),
    "pixel shuffle": (after(lambda x: F.pixel_shuffle(x, 2), 2), 0), "zeros around": (after(lambda x: F.pad(x, (0, 1, 2, 1))), 0),
    "reflected": (after(lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect")), 0),
    "channels of zeros": (after(lambda x: F.pad(x, (0, 0, 0, 0, 4, 4)), 2 * C), 0),
    "nearest": (after(lambda x: F.interpolate(x, scale_factor=2)), 0),
    "bilinear": (after(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")), 0),
    "grouped": (after(lambda x: x, groups=4), 0), "depthwise": (after(lambda x: x, groups=C), 0),
    "dilated": (after(lambda x: x, padding=2, dilation=2), 0), "transposed": (up(kernel_size=2, stride=2), 0),
    "transposed with overlap": (up(kernel_size=3, stride=2, padding=1, output_padding=1), 0),
    "transposed in groups": (up(kernel_size=4, stride=2, padding=1, groups=2), 0),
    "linear and norm": (Net(lambda m, x: m[2](m[1](m[0](x.flatten(1))).relu()), nn.Linear(C * 64, 16), nn.BatchNorm1d(16),
                            nn.Linear(16, 5)), 0),
    "dropout": (between(lambda x: F.dropout(x.relu(), 0.5, training=False)), 0),
    "channels last": (Net(lambda m, x: m[1](m[0](x.permute(0, 2, 3, 1)).relu().permute(0, 3, 1, 2)), nn.Linear(C, 12),
                          conv(12)), 0),
    "constants": (between(lambda x: torch.relu(1 - x / 2) * torch.arange(1.0, C + 1).view(1, C, 1, 1)), 0),
}  # fmt: skip


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def spirited(net):
    """Fresh weights, and batch statistics that do something."""
    for m in net.modules():
        if hasattr(m, "reset_parameters"):
            m.reset_parameters()
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.uniform_(m.bias, -0.3, 0.3)
            m.running_mean.uniform_(-0.3, 0.3)
            m.running_var.uniform_(0.5, 1.5)
    return net.eval()


def images(n=4, seed=1):
    return torch.randn(n, C, 8, 8, generator=torch.Generator().manual_seed(seed))


def run(graph, x, signed=True):
    with torch.no_grad():
        return read(graph, signed)(x, activation)


@pytest.mark.parametrize("name", EXACT)
def test_exact_operators(name):
    net, bipolar = EXACT[name]
    x, graph = images(), trace(spirited(net), images(1))
    assert unsupported(graph) == []
    with torch.no_grad():
        assert torch.allclose(run(graph, x), net(x), atol=1e-5, rtol=1e-5)
    assert sum(n.signed for n in read(graph).neurons) == bipolar


def test_pooling_and_moving_make_no_neurons():
    for name in (
        "average pool",
        "average pool of a sum",
        "channel shuffle",
        "nearest",
        "flip",
        "mean of channels",
        "zeros around",
    ):
        assert len(read(trace(EXACT[name][0].eval(), images(1))).neurons) == 1, name


REWRITTEN = {
    "leaky relu": lambda x: F.leaky_relu(x, 0.2), "abs": torch.abs, "hardtanh": lambda x: F.hardtanh(x, -1, 2),
    "above": lambda x: x.clamp(0.5, 2), "at most 1": lambda x: x.clamp(max=1), "at least -0.5": lambda x: x.clamp(min=-0.5),
    "larger": lambda x: torch.maximum(x, torch.zeros_like(x)), "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "masked": lambda x: x * (x > 0), "hardsigmoid": F.hardsigmoid,
}  # fmt: skip


@pytest.mark.parametrize("name", [*REWRITTEN, "prelu", "larger of two"])
def test_piecewise_linear_functions_stay_exact_beyond_the_calibration_data(name):
    if name == "prelu":
        net = Net(lambda m, x: m[1](m[2](m[0](x))), conv(), conv(), nn.PReLU(C, 0.3))
        nn.init.uniform_(net.layers[2].weight, -0.5, 0.5)
    elif name == "larger of two":
        net = Net(lambda m, x: m[2](torch.maximum(m[0](x), m[1](x))), conv(), conv(), conv())
    else:
        net = between(REWRITTEN[name])
    graph, report = approximate(trace(spirited(net), images(1)), images())
    assert all(r.exact and r.rectifiers <= 2 for r in report.replaced) and report.agreement == 1
    x = 20 * images(8, seed=2)
    with torch.no_grad():
        assert torch.allclose(run(graph, x), net(x), atol=2e-5, rtol=1e-5)
    if name != "larger of two":
        assert sum(n.region.shape[1] for n in read(graph).neurons) <= 2 * C + (C if name == "above" else 0)
        assert not any(n.signed for n in read(graph, signed=False).neurons)


SMOOTH = {
    "gelu": F.gelu, "silu": F.silu, "hardswish": F.hardswish, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "elu": F.elu,
    "softplus": F.softplus, "mish": F.mish, "selu": F.selu, "x * sigmoid(x)": lambda x: x * torch.sigmoid(x),
    "x * relu6(x + 3) / 6": lambda x: x * F.relu6(x + 3) / 6, "softsign": F.softsign, "square": torch.square,
}  # fmt: skip


@pytest.mark.parametrize("name", SMOOTH)
def test_approximation_is_as_good_as_it_says_and_makes_one_layer_of_neurons(name):
    net, x = between(SMOOTH[name]).eval(), images(8)
    nn.init.normal_(net.layers[0].weight, std=0.2)
    graph, report = approximate(trace(net, x[:1]), x)
    (made,) = report.replaced
    assert not made.exact and made.path == "" and made.line.startswith("test_read.py:") and made.rectifiers <= 10
    assert made.rms < 0.02 * (made.high - made.low) and made.rms <= made.worst
    with torch.no_grad():
        gap = (run(graph, x) - net(x)).abs().amax((0, 2, 3))
    assert (gap <= made.worst * net.layers[1].weight.abs().sum((1, 2, 3)) + 1e-5).all()
    assert 0 < report.rms < 0.1
    assert [n.signed for n in read(graph, signed=False).neurons] == [False]


def test_error_falls_with_the_square_of_the_knots():
    z = torch.randn(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
    for f in (F.gelu, torch.tanh, F.silu):
        gaps = []
        for knots in (8, 16, 32):
            made = pieces(f, z, float(z.min()), float(z.max()), knots)
            gaps.append(float(np.sqrt(np.square(made(z) - f(torch.from_numpy(z)).numpy()).mean())))
        assert gaps[0] / gaps[1] > 2.5 and gaps[1] / gaps[2] > 2.5, gaps


def test_sharp_bends_get_knots_and_beyond_the_range_it_is_constant():
    z = np.linspace(-5, 5, 2000)
    made = pieces(F.hardswish, z, -5, 5, 8)
    assert any(abs(abs(b / a) - 3) < 0.02 for a, b in zip(made.scale, made.shift, strict=True))
    assert np.ptp(made(np.array([6.5, 60.0]))) == 0


class Gate(nn.Module):
    """Squeeze-and-excitation."""

    def __init__(self, channels, gate=torch.sigmoid):
        super().__init__()
        self.a, self.b, self.gate = nn.Conv2d(channels, channels // 2, 1), nn.Conv2d(channels // 2, channels, 1), gate

    def forward(self, x):
        return x * self.gate(self.b(torch.relu(self.a(x.mean((2, 3), keepdim=True)))))


@pytest.mark.parametrize("gate", [torch.sigmoid, F.hardsigmoid, "glu"])
def test_products_through_squares(gate):
    if gate == "glu":
        net = Net(lambda m, x: m[1](F.glu(m[0](x), 1)), conv(C, 2 * C), conv())
    else:
        net = Net(lambda m, x: m[1](m[2](m[0](x).relu())), conv(), conv(), Gate(C, gate))
    x = images(16)
    graph, report = approximate(trace(net.eval(), x[:1]), x, 12)
    product = next(r for r in report.replaced if r.what == "mul")
    assert product.rectifiers == 24 and product.worst < 0.04 * (product.high - product.low)
    assert unsupported(graph) == [] and report.rms < 0.05
    if gate != "glu":
        assert not any(n.signed for n in read(graph).neurons)  # gate and gated are spikes of plain neurons


def test_the_float_graph_itself_computes_the_approximation():
    net, x = between(F.gelu).eval(), images()
    graph, _ = approximate(trace(net, x[:1]), x, 4)
    with torch.no_grad():
        assert torch.allclose(GraphModule(graph).eval()(x), run(graph, x), atol=1e-5)
    held, _ = approximate(trace(net, x[:1]), x, 4, hold=True)
    with torch.no_grad():
        assert torch.allclose(run(held, x), run(graph, x), atol=1e-5)
    layers = read(held).neurons
    assert [n.signed for n in layers] == [False, True] and layers[1].region.shape[1] == C
    plain = trace(between(F.relu).eval(), x[:1])
    assert approximate(plain, x)[0] is plain
    with pytest.raises(NetwrightError, match="calibration inputs and 2 or more knots, got 0"):
        approximate(graph, x[:0])


@pytest.fixture(scope="module")
def digits():
    pictures, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pictures, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(labels)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    return x[order], y[order]


@pytest.mark.parametrize(
    "name, act, gate, least", [("gelu", nn.GELU, nn.Identity, 0.97), ("gated", nn.ReLU, lambda: Gate(12), 0.9)]
)
def test_trained_networks_agree_when_they_spike(digits, name, act, gate, least):
    x, y = digits
    layers = [
        nn.Conv2d(1, 8, 3, 1, 1),
        nn.BatchNorm2d(8),
        act(),
        nn.Conv2d(8, 12, 3, 2, 1),
        nn.BatchNorm2d(12),
        act(),
        gate(),
    ]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 10))
    optimiser = torch.optim.AdamW(net.parameters(), 1e-2)
    for _ in range(4):
        for i in torch.randperm(1437).split(64):
            optimiser.zero_grad()
            F.cross_entropy(net(x[i]), y[i]).backward()
            optimiser.step()
    made = ChannelPercentile(steps=64, images=16, signed=False).convert(net.eval(), x[:1], x[:128])
    with torch.no_grad():
        agreement = (made.module(x[1437:1501]).argmax(1) == net(x[1437:1501]).argmax(1)).float().mean()
    assert agreement >= least, agreement


def test_spikes_that_move_keep_their_worth():
    """Views of spikes in the integer network: every channel takes its own threshold along."""

    def f(m, x):
        y = m[0](x).relu()
        y = F.pad(y.view(-1, 2, 4, 8, 8).transpose(1, 2).reshape(-1, C, 8, 8).flip(3)[:, :, 1:7], (1, 1, 0, 0))
        y = m[1](F.interpolate(y, scale_factor=2)).relu()
        return m[3](m[2](F.pixel_unshuffle(y, 2)).relu())

    net = Net(f, conv(), conv(C, 4), nn.ConvTranspose2d(16, C, 2, 2), conv()).eval()
    with torch.no_grad():
        net.layers[0].weight *= torch.logspace(-1, 1, C).reshape(-1, 1, 1, 1)  # thresholds that differ a hundredfold
    x = images(24)
    made = ChannelPercentile(steps=64, images=16, share=1.0).convert(net, x[:1], x[:16])
    with torch.no_grad():
        got, wanted = made.module(x[16:]), net(x[16:])
    assert float(torch.corrcoef(torch.stack([got.flatten(), wanted.flatten()]))[0, 1]) > 0.97


def test_every_reason_with_its_line_and_a_way_out():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm, self.b = conv(), nn.GroupNorm(2, C), conv()

        def forward(self, x):
            y = self.norm(self.a(x))
            y = F.gelu(y)
            y = F.adaptive_avg_pool2d(y, 3)
            return self.b(y).softmax(1)

    reasons = unsupported(trace(Mixed().eval(), images(1)))
    wanted = [("'group_norm' (at norm", "batch norm"), ("'gelu'", "approximate"), ("'adaptive_avg_pool2d'", "input size"),
              ("'softmax'", "left out")]  # fmt: skip
    assert len(reasons) == 4
    for reason, (where, way_out) in zip(reasons, wanted, strict=True):
        assert where in reason and way_out in reason and "test_read.py:" in reason


@pytest.mark.parametrize("cell", [nn.RNN, nn.GRU, nn.LSTM])
def test_recurrent_cells_are_sent_to_rnn_morph(cell):
    net = Net(lambda m, x: m[1](m[0](x)[0][:, -1]), cell(8, 16, batch_first=True), nn.Linear(16, 5)).eval()
    (reason,) = unsupported(trace(net, torch.zeros(1, 6, 8)))
    assert f"'{cell.__name__.lower()}' (at layers.0" in reason and "RNN-Morph" in reason


def test_attention_and_several_outputs_are_refused():
    attention = nn.MultiheadAttention(C, 2, batch_first=True)
    net = Net(lambda m, x: m[0](*[x.flatten(2).transpose(1, 2)] * 3)[0].mean(1), attention).eval()
    reasons = unsupported(approximate(trace(net, images(1)), images())[0])
    assert any("'softmax'" in r and "spiking transformer" in r for r in reasons)
    assert sum("'matmul'" in r for r in reasons) >= 1
    two = Net(lambda m, x: (m[0](x), m[1](x)), conv(), conv()).eval()
    assert "wrap it" in unsupported(trace(two, images(1)))[0]


@pytest.mark.parametrize("name, bipolar, refused", [
    ("resnet10t", False, ""), ("mobilenetv3_small_050", True, ""), ("convnext_atto", True, "layer_norm"),
])  # fmt: skip
def test_models_of_timm(name, bipolar, refused):
    try:
        net = spirited(timm_model(name, num_classes=10))
    except MissingExtra:
        pytest.skip("timm is not installed")
    x = torch.randn(2, 3, 32, 32)
    graph, report = approximate(trace(net, x[:1]), x)
    reasons = unsupported(graph)
    if refused:
        assert len(reasons) > 10 and all(f"'{refused}'" in r and ".py:" in r for r in reasons)
        return
    assert reasons == [] and report.rms < 0.3
    with torch.no_grad():
        wanted = GraphModule(graph).eval()(x)
    program = read(graph, signed=bipolar)
    with torch.no_grad():
        assert torch.allclose(program(x, activation), wanted, atol=1e-3 * float(wanted.abs().max()), rtol=1e-3)
