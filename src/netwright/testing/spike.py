"""Contract suite of the spike room: what every converter, neuron and input coding must do."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from netwright.core.errors import NetwrightError
from netwright.core.graph import Graph
from netwright.core.paper import Paper
from netwright.design.execute import GraphModule
from netwright.spike.convert import Converter
from netwright.spike.encode import Encoder
from netwright.spike.neurons import Neuron, simulate, unroll
from netwright.spike.surrogates import Surrogate


def check_neuron(cls: type[Neuron[Any]]) -> None:
    """A neuron of converted networks, made of thresholds [C] alone, sends whole spikes and loses nothing of its input."""
    assert isinstance(cls.paper, Paper) and cls.name
    theta = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    neuron = cls(theta)  # type: ignore[call-arg]
    most = getattr(neuron, "most", 1)
    current = torch.randn(20, 4, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = neuron.start(current[0])
    before = [t.clone() for t in leaves(start)]
    spikes, state = neuron.step(current[0], start)
    assert all(torch.equal(a, b) for a, b in zip(leaves(start), before, strict=True))
    assert all(t.shape == spikes.shape == current[0].shape for t in leaves(state))
    for x in current[1:]:
        s, state = neuron.step(x, state)
        spikes = spikes + s
        assert torch.equal(s, s.round()) and float(s.abs().max()) <= most
    sent = spikes * theta.reshape(-1, 1)
    assert torch.allclose(sent + leaves(state)[0], current.sum(0) + before[0])
    assert torch.equal(simulate(neuron, current).sum(0), spikes)


def leaves(state: Any) -> list[Tensor]:
    """The tensors of a neuron's state."""
    return [state] if isinstance(state, Tensor) else [t for part in state for t in leaves(part)]


def check_dynamics(neuron: Neuron[Any], channels: int = 3) -> None:
    """A neuron over time keeps shape and dtype, is deterministic, has all of its state outside, and passes gradients on.

    Two runs are equal; a sequence cut in two, with the state passed on, is the whole one; a step leaves the state that it is
    given alone; one batch element does not see another; all steps at once equal one after the other; where the neuron has a
    surrogate, later spikes have gradients of earlier currents and every parameter has one.
    """
    assert isinstance(neuron.paper, Paper) and neuron.name
    if isinstance(neuron, nn.Module):
        neuron.double()
    current = torch.randn(24, 4, channels, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1.5 + 1
    with torch.no_grad():
        whole, last = unroll(neuron, current)
        assert whole.shape == current.shape and whole.dtype == current.dtype
        assert torch.equal(whole, whole.round()) and float(whole.abs().mean()) > 0
        assert torch.equal(simulate(neuron, current), whole) and torch.equal(unroll(neuron, current)[0], whole)
        first, state = unroll(neuron, current[:11])
        before = [t.clone() for t in leaves(state)]
        second, end = unroll(neuron, current[11:], state)
        assert torch.equal(torch.cat([first, second]), whole)
        assert all(torch.equal(a, b) for a, b in zip(leaves(end), leaves(last), strict=True))
        assert all(torch.equal(a, b) for a, b in zip(leaves(state), before, strict=True))
        assert torch.equal(unroll(neuron, current[:, 1:2])[0], whole[:, 1:2])
        if neuron.parallel:
            scanned, after = neuron.scan(current[11:], state)
            assert torch.equal(scanned, second)
            assert all(torch.allclose(a, b) for a, b in zip(leaves(after), leaves(end), strict=True))
    if getattr(neuron, "surrogate", None) is not None:
        x = current.clone().requires_grad_()
        spikes, _ = unroll(neuron, x)
        assert torch.equal(spikes, whole)
        spikes[-1].sum().backward()
        assert x.grad is not None and bool(x.grad.isfinite().all()) and float(x.grad[-2].abs().sum()) > 0
        if isinstance(neuron, nn.Module):
            assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in neuron.parameters())


def check_surrogate(surrogate: Surrogate) -> None:
    """Forward is H(x) with H(0) = 1 in every dtype; backward is the stated slope, even, largest at 0 and finite."""
    assert isinstance(surrogate.paper, Paper) and surrogate.name
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x = torch.tensor([-1.0, -1e-6, 0.0, 1e-6, 1.0], dtype=dtype, requires_grad=True)
        spikes = surrogate(x)
        assert spikes.dtype == dtype and spikes.tolist() == [0, 0, 1, 1, 1]
        with torch.no_grad():
            assert torch.equal(surrogate(x), spikes)
    curves = surrogate.curves(-3, 3, 601)
    x = curves.x.clone().requires_grad_()
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    (grad,) = torch.autograd.grad((surrogate(x) * weight).sum(), x)
    assert torch.equal(curves.spike, surrogate(curves.x)) and torch.equal(grad, weight * curves.derivative)
    assert torch.allclose(curves.derivative, curves.derivative.flip(0)) and bool(curves.derivative.isfinite().all())
    assert float(curves.derivative[300]) == float(curves.derivative.max()) > 0


def check_encoder(encoder: Encoder) -> None:
    """The codes reach the largest calibration value, and signed data get signed codes."""
    assert isinstance(encoder.paper, Paper) and encoder.name
    x = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    scale, lo, hi = encoder.code(x)
    assert lo == 0 and abs(scale * hi - float(x.max())) <= scale
    scale, lo, hi = encoder.code(x - 0.5)
    assert lo == -hi and abs(scale * hi - float((x - 0.5).abs().max())) <= scale
    assert encoder.code(torch.zeros(2, 1, 4, 4))[0] > 0


def check_coding(encoder: Encoder, steps: int = 64) -> None:
    """Over time an input is spikes (or itself), larger values more or earlier; a drawn coding is decided by its generator."""
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    first, again = (encoder.encode(x, steps, torch.Generator().manual_seed(1)) for _ in range(2))
    assert first.shape == (steps, *x.shape) and first.dtype == x.dtype and torch.equal(first, again)
    assert bool((first * x >= 0).all())
    zero = encoder.encode(torch.zeros_like(x), steps, torch.Generator().manual_seed(1))
    assert not zero.any()
    one = encoder.encode(torch.ones_like(x), steps, torch.Generator().manual_seed(1))
    assert bool((one[0] == 1).all()) and bool((one.sum(0) >= first.sum(0)).all())


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


class Gated(nn.Module):
    """A network that has no spiking form: a softmax over channels inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Softmax(1), nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gate(self.conv(x)).mean((2, 3)))


def short_fit(trainee: nn.Module, **_: object) -> nn.Module:
    """A few gradient steps on random labels, for methods that train."""
    generator = torch.Generator().manual_seed(3)
    x, y = torch.rand(64, 1, 8, 8, generator=generator), torch.randint(0, 10, (64,), generator=generator)
    optimiser = torch.optim.SGD([p for p in trainee.parameters() if p.requires_grad], 1e-4)
    trainee.train()
    for _step in range(2):
        optimiser.zero_grad()
        nn.functional.cross_entropy(trainee(x), y).backward()
        optimiser.step()
    return trainee.eval()


def check_converter(converter: Converter) -> None:
    """The result is an integer spiking graph, made the same way each time, whose output follows the float network's.

    It says what became of every layer of neurons, leaves the network alone, travels as JSON, and refuses by name what it cannot
    convert; no calibration data is an error, and so is training without a `fit`.
    """
    assert isinstance(converter.paper, Paper) and converter.name
    net = small_network(0)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    x = torch.rand(96, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    convert = partial(converter.convert, fit=short_fit) if converter.trains else converter.convert
    made, again = (convert(net, x[:1], x[:64]) for _ in range(2))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    graph = made.module.graph
    ops = [n.op for n in graph]
    assert ops[:2] == ["input", "quantize"] and ops[-2:] == ["readout", "dequantize"]
    assert not {"conv2d", "linear", "batch_norm", "relu"} & set(ops)
    assert 0 <= made.start < made.steps == converter.steps
    assert all(value.dtype.kind == "i" for key, value in graph.values.items() if not key.startswith("logits"))
    first, second = made.module.state_dict(), again.module.state_dict()
    assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    neurons = [n for n in graph if n.op == "integrate"]
    for node in neurons:
        assert node.spec.steps == converter.steps and node.spec.shape[0] == 1 and 0 <= node.spec.rate <= 1
        assert int(graph.value(node, "theta").min()) >= 1
    if made.layers:
        assert [(layer.name, layer.rule) for layer in made.layers] == [(n.name, n.attrs["rule"]) for n in neurons]
        assert made.operations > 0
    for layer, node in zip(made.layers, neurons, strict=bool(made.layers)):
        shares = layer.clipped, layer.dead, layer.saturated
        assert all(0 <= s <= 1 for s in shares) and 0 <= layer.error < 2 and layer.neurons == node.spec.elements
        assert layer.rate >= node.spec.rate - 1e-5 and layer.threshold[0] <= layer.threshold[1] <= layer.threshold[2]
    with torch.no_grad():
        wanted, got = net(x[64:]), made.module(x[64:])
        kept = GraphModule(Graph.from_json(graph.to_json(), graph.values)).eval()
        assert torch.equal(kept(x[64:]), got)
    assert got.shape == wanted.shape
    centred = wanted - wanted.mean(0), got - got.mean(0)
    assert float((centred[0] * centred[1]).sum() / (centred[0].norm() * centred[1].norm())) > 0.5
    for wrong, words in ((x[:0], "calibration"), (None, "softmax|gate")):
        try:
            convert(Gated().eval() if wrong is None else net, x[:1], x[:64] if wrong is None else wrong)
        except NetwrightError as error:
            assert re.search(words, str(error)), error
        else:
            raise AssertionError(f"{converter.name} accepts what it should refuse: {words}")
    if converter.trains:
        try:
            converter.convert(net, x[:1], x[:64])
        except NetwrightError as error:
            assert "fit" in str(error)
        else:
            raise AssertionError(f"{converter.name} trains, and does without a fit")
