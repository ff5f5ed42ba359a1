"""Compiled networks as PyTorch operators: the same integers, through export, in another process."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from nets import Builder
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from netwright.core.errors import BundleError, CompilerError, NetwrightError, Unsupported
from netwright.core.graph import Graph
from netwright.deploy.packed import pack, unpack
from netwright.deploy.torch_program import Compiled, accelerate, to_program
from netwright.design.execute import GraphModule


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("NETWRIGHT_CACHE", str(tmp_path_factory.getbasetemp() / "programs"))


def network(bits: int) -> Graph:
    b = Builder((1, 9, 7, 6))
    x = b.conv("bconv2d" if bits == 1 else "qconv2d", b.conv("qconv2d", b.quantize("x"), 20, 3), 33, 3, bits=bits)
    op = "blinear" if bits == 1 else "qlinear"
    return b.graph(b.dequantize(b.linear(op, b.flatten(x), 11, bits=bits)))


def inputs(n: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(n).standard_normal((n, 9, 7, 6), dtype=np.float32))


@pytest.mark.parametrize("bits", [8, 2, 1])
@pytest.mark.parametrize("n", [1, 3])
def test_the_same_integers(bits, n):
    graph = network(bits)
    with torch.no_grad():
        expected = torch.cat([GraphModule(graph).eval()(x[None]) for x in inputs(n)])
    assert torch.equal(Compiled(graph)(inputs(n)), expected)
    assert torch.equal(to_program(graph).module()(inputs(n)), expected)


def test_a_program_runs_in_another_process(tmp_path):
    graph, x = network(1), inputs(4)
    torch.export.save(to_program(graph), tmp_path / "model.pt2")
    torch.save(x, tmp_path / "x.pt")
    program = """
import sys, torch, netwright.deploy.torch_program
module = torch.export.load("model.pt2").module()
torch.save(module(torch.load("x.pt", weights_only=True)), "y.pt")
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, timeout=120)
    assert torch.equal(torch.load(tmp_path / "y.pt", weights_only=True), Compiled(graph)(x))
    weights = sum(np.prod(s.shape) for k, s in graph.params.items() if k.endswith("weight") and s.bits == 1)
    state = to_program(graph).state_dict["weights"]
    others = sum(v.nbytes for k, v in graph.values.items() if graph.params[k].bits != 1)
    assert state.numel() < weights / 8 + others + 4096, "bits are stored as bits"


def test_operations_are_counted_and_shapes_are_known():
    graph = network(8)
    with FlopCounterMode(display=False) as counter:
        Compiled(graph)(inputs(3))
    assert counter.get_total_flops() == 2 * 3 * graph.macs
    assert Compiled(graph).to("meta")(inputs(5).to("meta")).shape == (5, 11)


def test_wrong_inputs():
    compiled = Compiled(network(8))
    with pytest.raises(BundleError, match="Nx9x7x6"):
        compiled(torch.zeros(1, 9, 7, 5))
    with pytest.raises(NetwrightError, match="Nx9x7x6"):
        compiled.to("meta")(torch.zeros(1, 9, 7, 5, device="meta"))
    turned = inputs(2).permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
    compiled = Compiled(network(8))
    assert torch.equal(compiled(turned), compiled(inputs(2)))
    assert torch.equal(compiled(inputs(2).double()), compiled(inputs(2)))


def test_without_a_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("NETWRIGHT_CACHE", str(tmp_path))
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(CompilerError, match="no-such-compiler"):
        Compiled(network(8))(inputs(1))


def test_packed_weights():
    graph = network(2)
    values = unpack(pack(graph))
    assert set(values) == set(graph.values)
    for key, value in graph.values.items():
        np.testing.assert_array_equal(values[key], value)
    data = pack(graph)
    for wrong in (b"", data[:-9], data[8:], b"x" * 100):
        with pytest.raises(BundleError, match="packed weights"):
            unpack(wrong)


class Sign(nn.Module):
    def forward(self, x):
        return torch.where(x >= 0, 1.0, -1.0)


def binary_model():
    """A model of a user's own: signs in front of layers whose weights are -a and a."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), Sign(), nn.Conv2d(16, 24, 3, 2, 1), nn.BatchNorm2d(24), Sign(),
        nn.Conv2d(24, 5, 3, 1, 1), nn.Flatten(), Sign(), nn.Linear(180, 7), nn.Linear(7, 5),
    )  # fmt: skip
    with torch.no_grad():
        for layer in (net[3], net[6], net[9]):
            scale = torch.rand(len(layer.weight), *[1] * (layer.weight.dim() - 1)) + 0.1
            layer.weight.copy_(torch.where(layer.weight >= 0, scale, -scale))
    return net.eval()


def test_a_users_model_gets_compiled_layers():
    net, x = binary_model(), torch.randn(3, 3, 12, 11, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = net(x)
        faster = accelerate(net, x)
        assert faster is net and [type(m).__name__ for m in net].count("Compiled") == 3
        torch.testing.assert_close(net(x), expected, rtol=1e-5, atol=1e-5)


def test_models_without_binary_layers_are_left_alone():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(Unsupported, match="-a and a"):
        accelerate(net, torch.randn(2, 4))
    net = binary_model()
    net[5] = nn.Identity()  # the layer behind reads other numbers than -1 and 1
    accelerate(net, torch.randn(2, 3, 12, 11))
    assert isinstance(net[6], nn.Conv2d) and isinstance(net[3], Compiled)
