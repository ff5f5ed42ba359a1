"""The integer engine against the float network it stands for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from netwright.compress import Codes, Int8, integerise, unsupported
from netwright.compress.calibrate import step_size
from netwright.compress.codes import accumulator, fixed_point, shared_shift
from netwright.compress.plan import kept
from netwright.core.errors import DataError, Unsupported
from netwright.design.ops.integer import rescale
from netwright.design.trace import trace
from netwright.testing.compress import ExampleNet, FourierNet, SoftmaxNet


def settle(net: nn.Module, x: torch.Tensor) -> nn.Module:
    """Give the batch norms statistics of their data."""
    net.train()
    for _ in range(30):
        net(x)
    return net.eval()


@torch.no_grad()
def noise_ratio(net: nn.Module, x: torch.Tensor) -> float:
    out = Int8().compress(net, x[:1], x)(x)
    return float((out - net(x)).pow(2).mean().sqrt() / net(x).std())


@pytest.mark.parametrize(
    ("m", "bits"), [(m, b) for m in (1.0, -0.37, 1e-9, 14.2, 0.0, 2.0**-31, 0.999999999) for b in (15, 30)] + [(-3e4, 30)]
)
def test_fixed_point(m, bits):
    mult, shift = (int(v) for v in fixed_point(np.float64(m), bits))
    assert 1 <= shift <= 60 and abs(mult) < 2**bits
    assert math.ldexp(mult, -shift) == pytest.approx(m, rel=2 ** (1 - bits), abs=1e-18)
    v = torch.tensor([-(2**31), 2**31 - 1, 12345, 0])
    exact = [math.floor((int(i) * mult + (1 << (shift - 1))) / (1 << shift)) if abs(int(i) * mult) < 2**52 else None for i in v]
    for got, want in zip(rescale(v, mult, shift).tolist(), exact, strict=True):
        assert want is None or got == want


def test_a_factor_beyond_all_codes_saturates():
    """Above 2**14 every sum but 0 leaves the range of the codes, so the largest factor does as well."""
    mult, shift = fixed_point(np.array(-30000.0))
    assert (int(mult), int(shift)) == (-(2**15) + 1, 1)


def test_a_shared_shift_keeps_sums_in_32_bits():
    generator = np.random.default_rng(0)
    for _ in range(50):
        factors, constants = generator.normal(size=(8, 2)) * 10 ** generator.uniform(-3, 2), generator.normal(size=8) * 100
        shift = shared_shift(factors, constants, 255)
        whole = np.abs(np.rint(factors * 2.0**shift)).sum(1) * 255 + np.abs(np.rint(constants * 2.0**shift)) + 2.0 ** (shift - 1)
        assert whole.max() < 2**31 and (shift == 30 or whole.max() > 2**28)


def test_a_switched_off_channel_keeps_its_constant():
    a, b = np.array([0.0, 1e-12, -1e-12, 0.0, -0.5]), np.array([3.0, -3.0, 3.0, 0.0, 1.0])
    unit, bias, dead = accumulator(a, b)
    assert np.allclose(unit * bias, b, atol=1e-6) and dead.tolist() == [True, True, True, True, False]
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1))
    x = torch.rand(16, 1, 6, 6)
    settle(net, x)
    with torch.no_grad():
        net[1].weight[:2] = torch.tensor([0.0, 1e-14])
        net[1].bias[:2] = torch.tensor([0.7, 0.9])
    assert noise_ratio(net, x) < 0.02


def test_negative_scales():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1))
    nn.init.constant_(net[1].weight, -1.0)
    assert noise_ratio(settle(net, torch.randn(16, 1, 6, 6)), torch.randn(16, 1, 6, 6)) < 0.03


def test_example_net():
    x = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert noise_ratio(settle(ExampleNet(), x), x) < 0.08


@pytest.mark.parametrize("slopes", [0.25, -0.5, 1.7])
def test_a_prelu_between_affine_nodes_is_one_operation(slopes):
    """Shifts before and behind it, negative factors and slopes: two lines a channel that meet."""
    torch.manual_seed(0)
    x = torch.randn(64, 1, 6, 6)

    class Bent(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 3, 1)
            self.norm, self.prelu = nn.BatchNorm2d(6), nn.PReLU(6)
            nn.init.normal_(self.prelu.weight, slopes, 0.2)
            nn.init.normal_(self.norm.weight)  # negative factors too

        def forward(self, x):
            x = self.a(x)
            return self.b(self.prelu(self.norm(x + torch.relu(x)) - 0.3) * 1.5 + 0.2)

    net = settle(Bent(), x)
    ops = [n.op for n in Int8().compress(net, x[:1], x).graph]
    assert ops.count("qprelu") == 1 and "prelu" not in ops and ops.count("requantize") == 0
    assert noise_ratio(net, x) < 0.05


def test_weighted_layers_are_integer_wherever_they_stand():
    """Between operations without an integer form codes are made and left again; 8 x 8 maps of the last axis are tokens."""

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm, self.up = nn.Conv2d(1, 12, 3, padding=1), nn.LayerNorm(12), nn.Linear(12, 24)
            self.down, self.head = nn.Linear(24, 12), nn.Linear(12, 5)

        def forward(self, x):
            x = self.a(x).permute(0, 2, 3, 1)
            x = x + self.down(F.gelu(self.up(self.norm(x))))
            return self.head(torch.softmax(x, -1).mean((1, 2)))

    torch.manual_seed(0)
    net, x = Mixed().eval(), torch.randn(32, 1, 8, 8)
    graph = trace(net, x[:1])
    network = Int8().compress(net, x[:1], x)
    ops = [n.op for n in network.graph]
    assert ops.count("qlinear") == 3 and ops.count("qconv2d") == 1 and "linear" not in ops and "conv2d" not in ops
    assert ops.count("lut") == 1, "the activation between two linear layers stays on codes"
    assert set(kept(graph).values()) == {"It has no integer form.", "It stands between operations in float."}
    assert {"layer_norm", "softmax"} <= {graph[n].op for n, why in kept(graph).items() if why.startswith("It has no")}
    assert noise_ratio(net, x) < 0.1


class Odd(nn.Module):
    """Operations off the beaten track."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 1)
        self.c, self.d = nn.Conv2d(6, 6, (3, 2), stride=2, groups=3), nn.Linear(8 * 3 * 4 + 12, 5)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.hardtanh(self.norm(self.a(x) * 2 - 0.1) / 3, -0.5, 0.8)
        p, q = x.chunk(2, 1)
        y = F.gelu(p - q) * p.mean((2, 3), keepdim=True)
        z = F.silu(self.c(F.pad(x, (0, 1, 2, 1))))
        w = F.avg_pool2d(torch.cat([self.b(x), y, F.leaky_relu(x[:, 1:2], 0.1)], 1), 2).permute(0, 2, 3, 1)
        return self.d(torch.cat([w.flatten(1), z.mean((2, 3)), F.max_pool2d(x, 3).mean((2, 3))], 1))


def test_odd_operations():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(32, 3, 6, 8, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = settle(Odd(), x)
    assert unsupported(trace(net, x[:1])) == []
    assert noise_ratio(net, x) < 0.08


def test_unsupported_names_operation_and_module():
    graph = trace(SoftmaxNet(), torch.rand(1, 1, 8, 8))
    (reason,) = unsupported(graph)
    assert "softmax" in reason
    with pytest.raises(Unsupported, match="fft"):
        integerise(trace(FourierNet(), torch.rand(1, 1, 8, 8)), calibration=torch.rand(2, 1, 8, 8))


@pytest.mark.parametrize("bad", [torch.rand(0, 1, 8, 8), None, torch.full((2, 1, 8, 8), float("nan"))])
def test_bad_calibration_data(bad):
    with pytest.raises(DataError, match="calibration set"):
        integerise(trace(ExampleNet(), torch.rand(1, 1, 8, 8)), calibration=bad)


def test_binary_codes_read_signs():
    """Zero padding counts nothing; sums, alpha (one negative) and bias are exact."""
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 25, 3))
    x = torch.randn(8, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    graph = trace(net, x[:1])
    name = [n.name for n in graph if n.op == "conv2d"][1]
    codes = np.where(graph.values["1.weight"] >= 0, 1, -1).astype(np.int8)
    network = integerise(graph, {name: Codes(codes, np.array([0.2, -0.1, 0.3, 0.05]), 1, signs=True)}, x)
    seen = {}
    network(x, visit=lambda n, out: seen.update({n.name: out}))
    node = network.graph[name]
    assert node.op == "bconv2d" and node.attrs["bits"] == 1 and network.graph.params[node.weights["weight"]].bytes == 108 // 8 + 1
    before = torch.where(seen[node.inputs[0]] >= 0, 1.0, -1.0)
    sums = F.conv2d(before, torch.from_numpy(codes).float(), padding=1)
    want = sums * torch.tensor([0.2, -0.1, 0.3, 0.05]).view(4, 1, 1) + net[1].bias.view(4, 1, 1)
    step = 127 / want.abs().max()
    assert ((seen[name] / step - want).abs() <= 0.5 / step + 0.16).all()


def test_step_size():
    x = torch.cat([torch.linspace(-1, 1, 1000), torch.tensor([30.0])])
    assert step_size(x, -127, 127, "minmax") == pytest.approx(30 / 127)
    assert step_size(torch.linspace(0, 1, 1000), 0, 255) == pytest.approx(1 / 255, rel=0.05)
    assert step_size(torch.zeros(5), 0, 255) > 0

    def error(s: float) -> float:
        return float(((torch.round(x / s).clamp(-127, 127) * s - x) ** 2).mean())

    assert error(step_size(x, -127, 127)) <= error(30 / 127)
