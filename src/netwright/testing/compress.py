"""The contract of every compressor, for plug-in authors too: call `check_compressor` from a test of your own.

from netwright.testing.compress import check_compressor

def test_contract(tmp_path):
    check_compressor(MyCompressor(), tmp_path)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.compress import Compressor
from netwright.core.errors import DataError, Unsupported
from netwright.core.graph import Graph
from netwright.design.execute import GraphModule
from netwright.design.trace import trace

CODE_SETS = {8: set(range(-127, 128)), 2: {-1, 0, 1}, 1: {-1, 1}}
INTEGER = frozenset(
    "input quantize qconv2d bconv2d qlinear blinear qadd qmul requantize qprelu lut qmean max_pool2d reshape slice cat permute "
    "dequantize".split()
)


class ExampleNet(nn.Module):
    """A small network with most of what the integer form takes: residual sum, depthwise, gate, pooling, concatenation."""

    def __init__(self, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
            self.a = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
            self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8))
            self.gate = nn.Conv2d(8, 8, 1)
            self.mix = nn.Sequential(nn.Conv2d(16, 12, 1), nn.BatchNorm2d(12), nn.ReLU6())
            self.norm = nn.BatchNorm2d(12)
            self.scale = nn.Parameter(torch.full((1, 12, 1, 1), 0.5))
            self.head = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.depthwise(self.a(x)))
        x = F.max_pool2d(torch.cat([x, x * torch.sigmoid(self.gate(x))], 1), 2)
        x = self.mix(x)
        x = F.avg_pool2d(self.norm(x) * self.scale + x, 2)
        return self.head(x.mean((2, 3)))


class SoftmaxNet(nn.Module):
    """A network with an operation that has no integer form."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv2d(1, 10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.conv(x).mean((2, 3)), 1)


class FourierNet(nn.Module):
    """A network with an operation that has no float form here either, in the module `head.spectrum`."""

    class Spectrum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.rfft(x).abs()

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 10, 3)
        self.head = nn.ModuleDict({"spectrum": FourierNet.Spectrum()})

    def forward(self, x: Tensor) -> Tensor:
        return self.head["spectrum"](self.conv(x).mean((2, 3)))


def few_steps(trainee: nn.Module, x: Tensor, target: Tensor, steps: int = 3, lr: float = 1e-3) -> nn.Module:
    """A `fit` of a few Adam steps on one batch."""
    trainee.train()
    optimiser = torch.optim.Adam([p for p in trainee.parameters() if p.requires_grad], lr)
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(trainee(x), target).backward()
        optimiser.step()
    return trainee.eval()


def check_integer(graph: Graph) -> None:
    """Only integer operations between `quantize` and `dequantize`, codes in their set, vectors in 32 bits."""
    for node in graph:
        assert node.op in INTEGER, f"{node.name}: {node.op} is not an integer operation"
        if "weight" in node.weights:
            bits = node.attrs["bits"]
            found = set(graph.value(node, "weight").reshape(-1).tolist())
            assert graph.value(node, "weight").dtype == "int8" and found <= CODE_SETS[bits], f"{node.name}: codes {found}"
            assert graph.params[node.weights["weight"]].bits == bits, f"{node.name}: Spec and attrs disagree about the bits"
        for role in ("bias", "mult", "shift"):
            if role in node.weights:
                assert graph.value(node, role).dtype == "int32", f"{node.name}.{role} is not int32"
        if "shift" in node.weights:
            shift = graph.value(node, "shift")
            assert shift.min() >= 1 and shift.max() <= 62, f"{node.name}: shift outside 1..62"
        if node.op not in ("input", "dequantize"):
            assert node.spec.kind in ("int", "uint"), f"{node.name}: a float tensor inside the integer form"


def check_states(network: GraphModule, x: Tensor, folder: Path) -> None:
    """The state survives safetensors, and a graph read from JSON runs the same."""
    expected = network(x)
    path = folder / "state.safetensors"
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
    again = GraphModule(Graph.from_json(network.graph.to_json(), network.graph.values))
    for parameter in again.state_dict().values():
        parameter.zero_()
    again.load_state_dict(load_file(path))
    assert torch.equal(again.eval()(x), expected), "the state dict does not survive safetensors"


def check_export(network: GraphModule, x: Tensor) -> None:
    """torch.export keeps every integer operation one node, and tracing the program gives the graph back."""
    program = torch.export.export(network, (x[:1],), strict=False)
    targets = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    for node in network.graph:
        if node.op.startswith(("q", "b", "requant", "lut", "dequant")):
            assert any(f"netwright.{node.op}." in t for t in targets), f"{node.op} is not one node in torch.export"
    found = [n.op for n in trace(program) if n.op not in ("reshape",)]
    assert found == [n.op for n in network.graph if n.op not in ("reshape",)], "tracing the exported program changes the graph"


def check_float(network: GraphModule, x: Tensor) -> None:
    """A float result runs in float, says its own cost, and can be exported."""
    assert not any(n.op.startswith("q") for n in network.graph), "a float form has integer operations"
    program = trace(torch.export.export(network, (x[:1],), strict=False))
    assert [n.op for n in program] == [n.op for n in network.graph], "tracing the exported program changes the graph"
    assert program.macs == network.graph.macs, "the graph's MACs are not those of the network"


def check_compressor(
    compressor: Compressor, folder: Path, net: Callable[[], nn.Module] = ExampleNet, shape: tuple[int, ...] = (1, 8, 8)
) -> GraphModule:
    """Run the whole contract; returns the compressed network.

    Raises:
        AssertionError: naming the part of the contract that does not hold.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(32, *shape, generator=generator)
    target = torch.randint(0, 10, (32,), generator=generator)

    def fit(trainee: nn.Module, **_: object) -> nn.Module:
        return few_steps(trainee, x, target)

    module = net().eval()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    first, second = (compressor.compress(module, x[:1], x, fit) for _ in range(2))
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items()), "the float network was changed"
    out = first(x)
    assert out.shape == module(x).shape and out.dtype == torch.float32, "shape or type of the output differs from the network's"
    assert torch.equal(out, first(x)), "a second run differs"
    assert torch.equal(out, second(x)), "a second compression differs"
    if compressor.form == "float":
        torch.testing.assert_close(out[:1], first(x[:1]), msg="an output depends on the rest of the batch")
        check_float(first, x)
    else:
        assert torch.equal(out[:1], first(x[:1])), "an output depends on the rest of the batch"
        check_integer(first.graph)
        check_export(first, x)
    check_states(first, x, folder)
    try:
        compressor.compress(module, x[:1], x[:0], fit)
    except DataError as error:
        assert "empty" in str(error), "the error does not say that the calibration set is empty"
    else:
        raise AssertionError("an empty calibration set was accepted")
    try:
        compressor.compress(FourierNet(), x[:1], x, fit)
    except Unsupported as error:
        assert "fft" in error.op and "spectrum" in error.where, "the error does not name the operation and its module"
    else:
        raise AssertionError("a network with an operation that nothing here can carry out was accepted")
    if compressor.form == "float":
        return first
    mixed = compressor.compress(SoftmaxNet().eval(), x[:1], x, fit)
    assert [n.op for n in mixed.graph].count("softmax") == 1, "what has no integer form does not stay in float"
    assert mixed(x).shape == (32, 10)
    return first
