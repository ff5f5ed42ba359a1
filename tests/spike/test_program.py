"""Reading a float network as neurons and regions: equal in floating point, and honest about what cannot convert."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from netwright.core.errors import Unsupported
from netwright.design import blocks
from netwright.design.models.staged import Stage, Staged
from netwright.design.trace import trace
from netwright.spike.convert.balance import activation, balance
from netwright.spike.convert.program import Neuron
from netwright.spike.convert.read import read, unsupported


def lively(net, size=8, channels=1):
    torch.manual_seed(0)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.uniform_(m.bias, -0.3, 0.3)
    with torch.no_grad():
        net.train()(torch.randn(32, channels, size, size))
    return net.eval()


class Odd(nn.Module):
    """Everything else that converts: relu6, hardtanh, constants, cat, slice, pooling, flatten, a shared relu."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(3, 6, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(12 * 4, 20), nn.Linear(20, 5)
        self.gamma = nn.Parameter(torch.rand(6, 1, 1) + 0.5)

    def forward(self, x):
        x = F.relu6(self.a((x - 0.5) / 0.25))
        y = F.hardtanh(self.b(x[:, 1:4])) * self.gamma + 0.1
        x = F.avg_pool2d(torch.cat((F.relu(y), x - 0.5 * y), 1), 2)
        x = F.max_pool2d(x, 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def nets():
    for name in ("conv", "mbconv", "convnext", "inception_dw", "vanilla"):
        yield name, Staged((Stage(name, 1, 16, 3, 2), Stage(name, 2, 24, 3, 2)), channels=1, classes=10).build()
    yield "odd", Odd()


@pytest.mark.parametrize("name, net", list(nets()), ids=lambda v: v if isinstance(v, str) else "")
def test_program_equals_module(name, net):
    net, x = lively(net), torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    graph = trace(net, x[:1])
    assert unsupported(graph) == []
    with torch.no_grad():
        got, wanted = read(graph)(x, lambda layer, z: activation(layer, z)), net(x)
    assert torch.allclose(got, wanted, atol=1e-4, rtol=1e-4)


def test_sum_before_relu_has_one_neuron_and_linear_points_are_bipolar():
    conv = lively(Staged((Stage("conv", 1, 8, 3, 1),), channels=1, classes=10).build())
    assert [n.signed for n in read(trace(conv, torch.zeros(1, 1, 8, 8))).neurons] == [False, False, False]
    graph = trace(lively(Staged((Stage("mbconv", 1, 8, 3, 2),), channels=1, classes=10).build()), torch.zeros(1, 1, 8, 8))
    assert [n.signed for n in read(graph).neurons] == [False, False, False, True]
    with pytest.raises(Unsupported, match="linear point"):
        read(graph, signed=False)


@pytest.mark.parametrize("op, layer", [("gelu", nn.GELU()), ("sigmoid", nn.Sigmoid()), ("silu", nn.SiLU())])
def test_unsupported_names_operation_and_module(op, layer):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), layer, nn.Conv2d(4, 4, 3))
    graph = trace(net, torch.zeros(1, 1, 8, 8))
    with pytest.raises(Unsupported, match=f"'{op}' \\(at 1\\)"):
        read(graph)
    assert len(unsupported(graph)) == 1


def test_every_reason_is_listed():
    net = blocks.CATALOGUE["gnconv"](kernel=3, expansion=2, norm="batch", act="relu").build(8)
    reasons = unsupported(trace(net, torch.zeros(1, 8, 8, 8)))
    assert reasons and all("'mul'" in r for r in reasons)


def test_balancing_approaches_the_largest_activation_from_below():
    """One layer, uniform activations on [0, 1]: theta' = (1 - theta)^2, so 1 - theta -> 1 / (1 + iterations)."""
    net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Conv2d(1, 1, 1))
    nn.init.ones_(net[0].weight)
    program = read(trace(net, torch.zeros(1, 1, 16, 16)))
    x = torch.linspace(0, 1, 64 * 256).reshape(64, 1, 16, 16)
    found = [float(balance(program, x, n, 64, 1.0)[program.neurons[0].name]) for n in (1, 4, 16, 64)]
    assert found == sorted(found) and found[-1] <= 1
    assert found[0] == pytest.approx(1.0, abs=1e-3)  # 2 E[x] at the first step
    low = [float(balance(program, x, n, 64, 0.1)[program.neurons[0].name]) for n in (8, 32, 128)]
    wanted = []
    for n in (8, 32, 128):
        theta = 0.0
        for _ in range(n):
            theta += 0.1 * (1 - theta) ** 2
        wanted.append(theta)
    assert low == pytest.approx(wanted, abs=1e-3)


def test_balancing_respects_the_cap():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU6(), nn.Conv2d(2, 1, 1))
    nn.init.constant_(net[0].weight, 50.0)
    program = read(trace(net, torch.zeros(1, 1, 4, 4)))
    theta = balance(program, torch.rand(8, 1, 4, 4), 8, 8, 1.0)
    assert float(theta[program.neurons[0].name].max()) == 6.0
    assert isinstance(program.neurons[0], Neuron)
