"""Events of a spiking network: counted by hand, as `cost` models them from rates, and as NeuroBench counts them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netwright.core.errors import NetwrightError
from netwright.core.graph import Graph
from netwright.design import GraphModule, trace
from netwright.estimate import activity, cost
from netwright.spike.convert import CATALOGUE

STEPS = 4


def converted(*layers: nn.Module) -> tuple[Graph, Tensor]:
    net = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(12), nn.ReLU(), nn.Linear(12, 10)).eval()
    net(torch.zeros(1, 1, 8, 8))
    x = torch.rand(48, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    method = CATALOGUE["ltb"](steps=STEPS, iterations=8, delay="none")
    return method.convert(net, x[:1], x).module.graph, x


@pytest.fixture(scope="module")
def padded():
    torch.manual_seed(0)
    return converted(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1, groups=2), nn.ReLU())


def pruned(graph: Graph) -> Graph:
    """A third of the weights of every layer zero."""
    rng, values = np.random.default_rng(0), dict(graph.values)
    for key in values:
        if key.endswith("weight"):
            values[key] = values[key] * (rng.random(values[key].shape) > 0.33).astype(np.int8)
    return graph.replace(graph.nodes, values=values)


def test_rates_and_counts_agree_where_all_inputs_meet_as_many_weights():
    graph, x = converted(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 1), nn.ReLU())
    values = {k: np.where(v == 0, 1, v).astype(v.dtype) if k.endswith("weight") else v for k, v in graph.values.items()}
    graph = graph.replace(graph.nodes, values=values)
    counted = activity(graph, x)
    nodes = []
    for n in graph:
        rate = counted.rates.get(n.inputs[0] if n.op == "reshape" else n.name)  # a view carries the rate of its source
        nodes.append(n if rate is None else dataclasses.replace(n, spec=dataclasses.replace(n.spec, rate=rate)))
    modelled = cost(graph.replace(nodes))
    assert counted.effective_acs == pytest.approx(modelled["synaptic_ops"].value, rel=1e-9)
    assert counted.effective_macs <= modelled["analog_macs"].value  # black pixels make no product
    assert counted.connection_sparsity == 0


def test_every_event_counted_by_hand(padded):
    """The second convolution, spike by spike: each meets the weights of its group that reach a place of the output."""
    graph = pruned(padded[0])
    x, trains = padded[1][:3], {}
    with torch.no_grad():
        GraphModule(graph)(x, visit=lambda n, v: trains.__setitem__(n.name, v) if n.op == "integrate" else None)
    layer = next(n for n in graph if n.op == "qconv2d" and n.attrs["groups"] == 2)
    weight, total = graph.value(layer, "weight"), 0
    for _, c, i, j in trains[layer.inputs[0]].nonzero().tolist():
        for o in range(8):
            if o // 4 == c // 3:
                for di in range(3):
                    for dj in range(3):
                        inside = all((k + 1 - d) % 2 == 0 and 0 <= (k + 1 - d) // 2 < 4 for k, d in ((i, di), (j, dj)))
                        total += inside and weight[o, c % 3, di, dj] != 0
    found = activity(graph, x, batch=2)
    assert found.operations[layer.name] == pytest.approx(total / 3) and total > 0
    assert found == activity(graph, x)
    fired = sum(int((v != 0).sum()) for v in trains.values())
    assert found.activation_sparsity == pytest.approx(1 - fired / sum(v.numel() for v in trains.values()))
    assert found.effective_acs < cost(graph)["synaptic_ops"].value * 1.5 and found.to_cost()["effective_acs"].how == "counted"


def test_a_burst_is_as_many_additions_as_spikes(padded):
    graph, x = padded
    nodes = [dataclasses.replace(n, attrs={**n.attrs, "rule": "burst", "limit": 3}) if n.op == "integrate" else n for n in graph]
    burst, plain = activity(graph.replace(nodes), x), activity(graph, x)
    assert max(burst.rates.values()) > max(plain.rates.values()) and burst.effective_acs > plain.effective_acs


def test_what_has_no_events_is_said(padded):
    with pytest.raises(NetwrightError, match="0 layers of neurons"):
        activity(trace(nn.Sequential(nn.Linear(4, 2)), torch.zeros(1, 4)), torch.zeros(3, 4))
    with pytest.raises(NetwrightError, match="0 inputs"):
        activity(padded[0], padded[1][:0])


class Neuron(nn.Module):
    """Integrate-and-fire with soft reset, one step a call."""

    def __init__(self, theta: Tensor, v0: Tensor):
        super().__init__()
        self.theta, self.v0, self.v = theta, v0, None

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1, *[1] * (x.dim() - 2))
        v = x + (self.v0.reshape(shape) if self.v is None else self.v)
        s = (v >= self.theta.reshape(shape)).float()
        self.v = v - s * self.theta.reshape(shape)
        return s


class Stepwise(nn.Module):
    """A converted chain of layers as people write it in PyTorch: float layers, and neurons that are called T times."""

    def __init__(self, graph: Graph):
        super().__init__()
        self.code, self.layers = next(n for n in graph if n.op == "quantize").attrs, nn.ModuleList()
        for n in graph:
            if n.op == "qconv2d":
                w, a = torch.from_numpy(graph.value(n, "weight")).float(), n.attrs
                layer = nn.Conv2d(w.shape[1] * a["groups"], len(w), 3, a["stride"], a["pads"][:2], groups=a["groups"])
            elif n.op == "qlinear":
                w = torch.from_numpy(graph.value(n, "weight")).float()
                layer = nn.Linear(*w.shape[::-1])
            elif n.op == "integrate":
                self.layers.append(Neuron(*(torch.from_numpy(graph.value(n, role)).float() for role in ("theta", "v0"))))
                continue
            elif n.op == "reshape":
                self.layers.append(nn.Flatten())
                continue
            else:
                continue
            layer.weight.data, layer.bias.data = w, torch.from_numpy(graph.value(n, "bias")).float()
            self.layers.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        codes = (x / self.code["scale"]).round().clamp(self.code["lo"], self.code["hi"])
        current, total = self.layers[0](codes), 0
        for _ in range(STEPS):
            y = current
            for layer in self.layers[1:]:
                y = layer(y)
            total = total + y
        return total


def test_neurobench_counts_the_same(padded):
    pytest.importorskip("neurobench", reason="NeuroBench is not installed: pip install neurobench")
    from neurobench.metrics.static import ConnectionSparsity, Footprint
    from neurobench.metrics.workload import ActivationSparsity, SynapticOperations
    from neurobench.models import TorchModel

    graph, x = pruned(padded[0]), padded[1]
    ours, net = activity(graph, x), Stepwise(graph)
    model = TorchModel(net)
    model.add_activation_module(Neuron)
    model.register_hooks()
    with torch.no_grad():
        got = model(x)
        sums = {}
        GraphModule(graph)(x, visit=lambda n, v: sums.__setitem__(n.op, v) if n.op == "readout" else None)
        assert torch.equal(got.to(torch.int32), sums["readout"])  # the same network
        theirs = SynapticOperations()(model, got, (x, x))
    assert ours.effective_acs == theirs["Effective_ACs"] > 0
    assert ours.effective_macs == theirs["Effective_MACs"] > 0
    assert ours.activation_sparsity == pytest.approx(ActivationSparsity()(model, got, (x, x)), abs=1e-12)
    assert ours.connection_sparsity == pytest.approx(ConnectionSparsity()(model), abs=1e-4)
    assert ours.dense_ops == theirs["Dense"] and ours.connection_sparsity > 0.3
    assert Footprint()(TorchModel(GraphModule(graph))) == ours.footprint
