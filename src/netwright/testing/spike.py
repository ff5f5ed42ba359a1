"""Contract suite of the spike room: what every converter, neuron and input coding must do."""

from __future__ import annotations

import torch
from torch import nn

from netwright.core.paper import Paper
from netwright.spike.convert import Converter
from netwright.spike.encode import Encoder
from netwright.spike.neurons import Neuron, simulate


def check_neuron(cls: type[Neuron]) -> None:
    """A neuron with soft reset sends -1, 0 or 1, leaves its state alone, and loses nothing of its input."""
    assert isinstance(cls.paper, Paper) and cls.name
    theta = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    neuron = cls(theta)  # type: ignore[call-arg]
    current = torch.randn(20, 4, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = neuron.start(current[0])
    before = start.clone()
    spikes, state = neuron.step(current[0], start)
    assert torch.equal(start, before) and state.shape == spikes.shape == start.shape
    for x in current[1:]:
        s, state = neuron.step(x, state)
        spikes = spikes + s
        assert set(s.unique().tolist()) <= {-1.0, 0.0, 1.0}
    sent = spikes * theta.reshape(-1, 1)
    assert torch.allclose(sent + state, current.sum(0) + before)
    assert torch.equal(simulate(neuron, current).sum(0), spikes)


def check_encoder(encoder: Encoder) -> None:
    """The codes reach the largest calibration value, and signed data get signed codes."""
    assert isinstance(encoder.paper, Paper) and encoder.name
    x = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    scale, lo, hi = encoder.code(x)
    assert lo == 0 and abs(scale * hi - float(x.max())) <= scale
    scale, lo, hi = encoder.code(x - 0.5)
    assert lo == -hi and abs(scale * hi - float((x - 0.5).abs().max())) <= scale
    assert encoder.code(torch.zeros(2, 1, 4, 4))[0] > 0


def small_network(seed: int) -> nn.Module:
    """A residual network of 8x8 images with max pooling, untrained but with lively batch statistics."""

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.norm1 = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
            self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
            self.pool, self.head = nn.MaxPool2d(2), nn.Linear(8, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.pool(torch.relu(self.norm1(self.conv1(x))))
            x = torch.relu(x + self.norm2(self.conv2(x)))
            return self.head(x.mean((2, 3)))

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Small()
        with torch.no_grad():
            net.train()(torch.rand(64, 1, 8, 8))
    return net.eval()


def check_converter(converter: Converter) -> None:
    """The result is an integer spiking graph, made the same way each time, whose output follows the float network's."""
    assert isinstance(converter.paper, Paper) and converter.name
    net = small_network(0)
    x = torch.rand(96, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    made, again = (converter.convert(net, x[:1], x[:64]) for _ in range(2))
    graph = made.module.graph
    ops = [n.op for n in graph]
    assert ops[:2] == ["input", "quantize"] and ops[-2:] == ["readout", "dequantize"]
    assert not {"conv2d", "linear", "batch_norm", "relu"} & set(ops)
    assert 0 <= made.start < made.steps == converter.steps
    assert all(value.dtype.kind == "i" for key, value in graph.values.items() if not key.startswith("logits"))
    first, second = made.module.state_dict(), again.module.state_dict()
    assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    for node in graph:
        if node.op == "integrate":
            assert node.spec.steps == converter.steps and node.spec.shape[0] == 1 and 0 <= node.spec.rate <= 1
            assert int(graph.value(node, "theta").min()) >= 1
    with torch.no_grad():
        wanted, got = net(x[64:]), made.module(x[64:])
    assert got.shape == wanted.shape
    centred = wanted - wanted.mean(0), got - got.mean(0)
    assert float((centred[0] * centred[1]).sum() / (centred[0].norm() * centred[1].norm())) > 0.5
