"""NIR: what is written is read back as the same spikes and integers, and other people's graphs mean what NIR says."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import h5py
import nir
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.core.errors import NetwrightError, Unsupported
from netwright.deploy.bundle import write_bundle
from netwright.deploy.exports import export
from netwright.deploy.nir import from_nir, grouped, nir_bytes, read_nir, squared, to_nir, ungrouped, write_nir
from netwright.deploy.nir_interpreter import Interpreter
from netwright.design import GraphModule, trace
from netwright.spike.convert import CATALOGUE
from netwright.spike.convert.converter import Converter
from netwright.testing.spike import small_network

STEPS = 3


class Residual(nn.Module):
    """Average pooling, a residual sum, a strided and an oblong convolution, the mean over the image."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.Conv2d(6, 6, (1, 3), padding=(0, 1), bias=False), nn.BatchNorm2d(6)
        self.conv3 = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = F.avg_pool2d(F.relu(self.norm1(self.conv1(x))), 2)
        x = F.relu(x + self.norm2(self.conv2(x)))
        return self.head(F.relu(self.conv3(x)).mean((2, 3)))


class Parts(nn.Module):
    """Slices and concatenations of channels, of the image and of what spikes; a flattened image."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1, groups=1)
        self.fc1, self.fc2 = nn.Linear(10 * 16, 20), nn.Linear(24, 5)

    def forward(self, x):
        x = F.relu(self.a(torch.cat((x, x * 0.5), 1)))
        x = F.avg_pool2d(torch.cat((F.relu(self.b(x[:, 1:4])), x), 1), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc2(torch.cat((x[:, :4], x), 1))


def lively(net: nn.Module) -> nn.Module:
    with torch.no_grad():
        net.train()(torch.rand(32, 1, 8, 8))
    return net.eval()


def converted(net: nn.Module, method: Converter | None = None):
    images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    method = method or CATALOGUE["ltb"](steps=STEPS, iterations=8, delay="none")
    return method.convert(lively(net), images[:1], images).module.graph


@pytest.fixture(scope="module")
def graphs():
    torch.manual_seed(0)
    lossless = CATALOGUE["lossless"](bits=2)
    return {"residual": converted(Residual()), "parts": converted(Parts()), "lossless": converted(Residual(), lossless)}


def images(count: int = 40) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(2))


def spikes_of(graph, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        out = GraphModule(graph)(x, visit=lambda n, v: found.__setitem__(n.name, v) if n.op == "integrate" else None)
    return out, found


def spikes_read(network: nir.NIRGraph, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    found: dict[str, list[Tensor]] = {}
    neurons = {name for name, node in network.nodes.items() if isinstance(node, nir.IF)}
    out = Interpreter(network).infer(x, visit=lambda n, v: found.setdefault(n, []).append(v) if n in neurons else None)
    return out, {name: torch.cat(v).to(torch.int8) for name, v in found.items()}


def check_same(graph, path: Path) -> None:
    """Spikes of every layer and the outputs, from the file, by the interpreter and as a graph again."""
    write_nir(graph, path)
    read, x = read_nir(path), images()
    (wanted, neurons), (got, found) = spikes_of(graph, x), spikes_read(read, x)
    assert neurons.keys() == found.keys() and len(neurons) >= 2
    assert all(torch.equal(neurons[name], found[name]) for name in neurons)
    assert any(v.any() for v in neurons.values()) and torch.equal(wanted, got)
    again, same = spikes_of(from_nir(read), x)
    assert torch.equal(again, wanted) and all(torch.equal(neurons[name], same[name]) for name in neurons)


@pytest.mark.parametrize("name", ["residual", "parts", "lossless"])
def test_round_trip_gives_the_same_spikes(graphs, name, tmp_path):
    check_same(graphs[name], tmp_path / "model.nir")
    steps = max(n.spec.steps for n in graphs[name])
    assert nir.read(tmp_path / "model.nir").metadata["steps"] == steps  # NIR's own reader and its check of shapes
    assert nir_bytes(graphs[name]) == nir_bytes(graphs[name])


@pytest.mark.parametrize("rule, limit", [("if", 0), ("bipolar", 0), ("memory", 0), ("memory", 2), ("burst", 3)])
def test_every_rule_of_the_neuron(graphs, rule, limit, tmp_path):
    graph = graphs["residual"]
    nodes = [dataclasses.replace(n, attrs={**n.attrs, "rule": rule, "limit": limit}) if n.op == "integrate" else n for n in graph]
    check_same(graph.replace(nodes), tmp_path / "model.nir")


def test_the_graph_comes_back_node_by_node(graphs, tmp_path):
    write_nir(graphs["residual"], tmp_path / "model.nir")
    again = from_nir(read_nir(tmp_path / "model.nir"))
    assert again.by_name == graphs["residual"].by_name and again.params == graphs["residual"].params
    assert {n.op for n in from_nir(to_nir(graphs["parts"]))} >= {"slice", "cat", "reshape"}


def test_without_our_metadata_reset_is_hard(graphs, tmp_path):
    network = to_nir(graphs["residual"])
    assert {node.metadata["reset"] for node in network.nodes.values() if isinstance(node, nir.IF)} == {"subtract"}
    for node in network.nodes.values():
        node.metadata = {}
    network.metadata = {}
    codes = (images() * 255).round()
    with pytest.raises(NetwrightError, match="give steps"):
        Interpreter(network).infer(codes)
    with pytest.raises(Unsupported, match="netwright did not write it"):
        from_nir(network)
    hard = Interpreter(network).infer(codes, STEPS)
    assert not torch.equal(hard, spikes_read(to_nir(graphs["residual"]), images())[0].double())


def test_unit_thresholds_give_nearly_the_same(graphs, tmp_path):
    write_nir(graphs["residual"], tmp_path / "unit.nir", unit=True)
    read = read_nir(tmp_path / "unit.nir")
    assert {float(t) for node in read.nodes.values() if isinstance(node, nir.IF) for t in node.v_threshold.ravel()} == {1.0}
    wanted, got = spikes_of(graphs["residual"], images(200))[1], spikes_read(read, images(200))[1]
    for name in wanted:
        assert (wanted[name] != got[name]).float().mean() < 0.02
    with pytest.raises(NetwrightError, match="no int8"):
        from_nir(read)


def test_what_nir_has_no_node_for_is_refused():
    graph = converted(small_network(0))
    with pytest.raises(Unsupported, match=r"'max_pool2d' \(at pool.*average pooling"):
        to_nir(graph)
    files, notes = export(graph, ["nir"])
    assert not files and "no model.nir" in notes[0]
    with pytest.raises(Unsupported, match="convert the network first"):
        to_nir(trace(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), torch.zeros(1, 1, 8, 8)))


def test_a_bundle_carries_the_file(graphs, tmp_path):
    files, notes = export(graphs["residual"], ["nir"])
    bundle = write_bundle(graphs["residual"], tmp_path / "bundle", form="spiking", exports=files)
    assert not notes and "nir" in bundle.backends
    wanted, got = bundle.run(images(4).numpy()), Interpreter(read_nir(bundle.path / "model.nir")).infer(images(4))
    assert np.array_equal(wanted, got.numpy())


# --- kernels --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sides, pads", [((1, 3), (0, 1, 0, 1)), ((3, 3), (0, 0, 1, 1)), ((2, 2), (1, 0, 1, 0)),
                                         ((5, 3), (2, 1, 2, 1)), ((3, 1), (2, 0, 0, 0)), ((1, 1), (0, 1, 0, 0))])  # fmt: skip
@pytest.mark.parametrize("stride", [1, 2])
def test_squared_kernels_give_the_same_sums(sides, pads, stride):
    found = squared(sides, pads)
    if found is None:  # the parities of the two dimensions differ
        assert (sides[0] + pads[0] + pads[2] - sides[1] - pads[1] - pads[3]) % 2
        return
    side, (top, left, bottom, right) = found
    x, w = torch.randn(2, 4, 7, 7), torch.randn(6, 2, *sides)
    wanted = F.conv2d(F.pad(x, (pads[1], pads[3], pads[0], pads[2])), w, stride=stride, groups=2)
    wide = F.pad(torch.from_numpy(ungrouped(w.numpy(), 2)), (left, right, top, bottom))
    assert wide.shape == (6, 4, side, side)
    got = F.conv2d(x, wide, stride=stride, padding=(pads[0] + top, pads[1] + left))
    assert torch.allclose(wanted, got, atol=1e-5)
    assert np.array_equal(grouped(ungrouped(w.numpy(), 2), 2), w.numpy())


# --- other people's graphs ------------------------------------------------------------------------------------------------
def chain(*nodes, **more) -> nir.NIRGraph:
    return nir.NIRGraph.from_list(*nodes, **more)


def run(graph: nir.NIRGraph, x: Tensor, dt: float = 1.0) -> Tensor:
    (name,) = (n for n, v in graph.nodes.items() if isinstance(v, nir.Input))
    (out,) = Interpreter(graph, dt).run({name: x}).values()
    return out


def full(value: float, n: int = 3) -> np.ndarray:
    return np.full(n, value)


def test_if_resets_hard_and_fires_above_the_threshold():
    node = nir.IF(r=full(1), v_threshold=full(1), v_reset=full(0.25))
    x = torch.tensor([[1.0, 0.6, 1.4]] * 4, dtype=torch.float64)[:, None]
    v, wanted = torch.zeros(3, dtype=torch.float64), []
    for current in x[:, 0]:
        v = v + current
        s = v > 1
        v = torch.where(s, 0.25, v)
        wanted.append(s.double())
    got = run(chain(node), x)[:, 0]
    assert torch.equal(got, torch.stack(wanted)) and got[0, 0] == 0 and got[1, 0] == 1  # 1 is not above 1


def test_leaky_neurons_follow_their_equations():
    x, dt = torch.rand(20, 2, 3, generator=torch.Generator().manual_seed(0)).double(), 0.5
    common = {"r": full(2.0), "v_leak": full(0.1)}
    lif = nir.LIF(tau=full(4.0), v_threshold=full(0.6), **common)
    cuba = nir.CubaLIF(tau_mem=full(4.0), tau_syn=full(2.0), v_threshold=full(0.6), w_in=1.5, **common)
    v, u, w, i = (torch.zeros(2, 3, dtype=torch.float64) for _ in range(4))
    found = [run(chain(n), x, dt) for n in (lif, nir.LI(tau=full(4.0), **common), cuba, nir.I(r=full(2.0)))]
    total = torch.zeros(2, 3, dtype=torch.float64)
    for t in range(20):
        v = v + dt / 4 * (0.1 - v + 2 * x[t])
        s = v > 0.6
        v = torch.where(s, 0.0, v)
        u = u + dt / 4 * (0.1 - u + 2 * x[t])
        i = i + dt / 2 * (1.5 * x[t] - i)
        w = w + dt / 4 * (0.1 - w + 2 * i)
        z = w > 0.6
        w = torch.where(z, 0.0, w)
        total = total + dt * 2 * x[t]
        for got, wanted in zip(found, (s.double(), u, z.double(), total), strict=True):
            assert torch.allclose(got[t], wanted, atol=1e-12)
    assert found[0].sum() > 0 and found[2].sum() > 0


def test_layers_without_state():
    x = torch.randn(2, 3, 4, 6, 6, dtype=torch.float64)
    rng = np.random.default_rng(0)
    conv = nir.Conv2d((6, 6), rng.normal(size=(8, 2, 3, 3)), 2, 1, 1, 2, rng.normal(size=8))
    pools = (
        nir.SumPool2d(np.array([3, 3]), np.array([1, 1]), np.array([1, 1])),
        nir.AvgPool2d(*[np.array([2, 2])] * 2, np.zeros(2)),
    )
    graph = chain(nir.Input({"input": np.array([4, 6, 6])}), conv, *pools[:1], type_check=False)
    wanted = F.conv2d(x[1], torch.from_numpy(conv.weight), torch.from_numpy(conv.bias), 2, 1, 1, 2)
    assert torch.allclose(run(graph, x)[1], F.avg_pool2d(wanted, 3, 1, 1) * 9)
    flat = chain(nir.Input({"input": np.array([4, 6, 6])}), pools[1], nir.Flatten({"input": np.array([4, 3, 3])}, 0, -1))
    assert torch.allclose(run(flat, x)[0], F.avg_pool2d(x[0], 2).flatten(1))
    y = torch.randn(2, 3, 5, dtype=torch.float64)
    linear, scale = nir.Linear(rng.normal(size=(4, 5))), nir.Scale(full(2.0, 4))
    wanted = 2 * y @ torch.from_numpy(linear.weight).T
    assert torch.allclose(run(chain(linear, scale), y), wanted)
    assert torch.equal(run(chain(linear, scale, nir.Threshold(full(0.5, 4))), y), (wanted > 0.5).double())
    line = nir.Conv1d(5, rng.normal(size=(2, 3, 3)), 1, "same", 1, 1, rng.normal(size=2))
    z = torch.randn(2, 1, 3, 5, dtype=torch.float64)
    assert torch.allclose(
        run(chain(line), z)[0], F.conv1d(z[0], torch.from_numpy(line.weight), torch.from_numpy(line.bias), padding=1)
    )


def test_delays_are_counted_in_steps():
    x = torch.arange(1.0, 7.0)[:, None, None].expand(6, 1, 3)
    got = run(chain(nir.Delay(np.array([0.0, 0.2, 0.5]))), x, dt=0.1)[:, 0]
    assert got.T.tolist() == [[1, 2, 3, 4, 5, 6], [0, 0, 1, 2, 3, 4], [0, 0, 0, 0, 0, 1]]


@pytest.mark.parametrize("inside", [False, True])
def test_loops_carry_the_step_before(inside):
    """y_t = x_t + w y_{t-1}, in the graph and in a graph inside it."""
    w = np.array([[0.0, 0.5], [0.25, 0.0]])
    nodes = {"input": nir.Input({"input": np.array([2])}), "sum": nir.Scale(np.ones(2)), "back": nir.Linear(w),
             "output": nir.Output({"output": np.array([2])})}  # fmt: skip
    edges = [("input", "sum"), ("sum", "back"), ("back", "sum"), ("sum", "output")]
    graph = nir.NIRGraph(nodes, edges)
    if inside:
        ends = {"x": nir.Input({"input": np.array([2])}), "rnn": graph, "y": nir.Output({"output": np.array([2])})}
        graph = nir.NIRGraph(ends, [("x", "rnn"), ("rnn", "y")], type_check=False)
    x = torch.rand(5, 1, 2, dtype=torch.float64)
    y, got = torch.zeros(1, 2, dtype=torch.float64), run(graph, x)
    for t in range(5):
        y = x[t] + y @ torch.from_numpy(w).T
        assert torch.allclose(got[t], y)


def test_errors_name_the_node():
    with pytest.raises(NetwrightError, match=r"'linear' \(Linear\).*cannot take values of \(4,\)"):
        run(chain(nir.Linear(np.ones((2, 3)))), torch.ones(1, 1, 4))
    with pytest.raises(NetwrightError, match="reset 'soft'"):
        run(chain(nir.IF(full(1), full(1), metadata={"reset": "soft"})), torch.ones(1, 1, 3))
    with pytest.raises(NetwrightError, match="negative delay"):
        run(chain(nir.Delay(full(-1.0))), torch.ones(1, 1, 3))
    with pytest.raises(NetwrightError, match="has the inputs"):
        Interpreter(chain(nir.Scale(full(1)))).run({"x": torch.ones(1, 1, 3)})


# --- files ----------------------------------------------------------------------------------------------------------------
def test_what_is_no_nir_file_is_said(graphs, tmp_path):
    path = tmp_path / "model.nir"
    with pytest.raises(NetwrightError, match="There is no NIR file"):
        read_nir(path)
    path.write_text("hello")
    with pytest.raises(NetwrightError, match="not HDF5"):
        read_nir(path)
    data = nir_bytes(graphs["residual"])
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(NetwrightError, match=r"cannot be read as NIR|not HDF5"):
        read_nir(path)
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros(3)
    with pytest.raises(NetwrightError, match="no graph"):
        read_nir(path)


def edit(graph, path: Path, change) -> Path:
    write_nir(graph, path)
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def test_damaged_and_edited_files_are_refused(graphs, tmp_path):
    graph, path = graphs["residual"], tmp_path / "model.nir"

    def retype(file):
        del file["node/nodes/relu/type"]
        file["node/nodes/relu/type"] = "Transformer"

    def cut(file):
        del file["node/nodes/relu/v_threshold"]

    def stray(file):
        edges = file["node/edges"][()]
        edges[0] = [b"nowhere", b"relu"]
        del file["node/edges"]
        file.create_dataset("node/edges", data=edges, dtype=h5py.string_dtype())

    def link(file):
        del file["node/nodes/relu/r"]
        file["node/nodes/relu/r"] = h5py.ExternalLink("other.h5", "/secret")

    def loop(file):
        file["node/nodes/relu/metadata/again"] = file["node/nodes"]

    for change in (retype, cut, stray, link, loop):
        with pytest.raises(NetwrightError, match="cannot be read as NIR"):
            read_nir(edit(graph, path, change))

    def weights(file):
        for node in file["node/nodes"].values():
            if node["type"][()] == b"Conv2d":
                node["weight"][...] = node["weight"][()] + 0.5

    with pytest.raises(NetwrightError, match=r"edited|no int8"):
        from_nir(read_nir(edit(graph, path, weights)))

    def newer(file):
        file["node/metadata/format"][...] = 99

    with pytest.raises(NetwrightError, match="format 99"):
        from_nir(read_nir(edit(graph, path, newer)))


def test_sums_of_windows_become_sum_pools_and_changes_over_time_delays(graphs):
    kinds = {type(node).__name__ for node in to_nir(graphs["lossless"]).nodes.values()}
    assert {"SumPool2d", "Delay", "Scale"} <= kinds and any(n.op == "difference" for n in graphs["lossless"])
    (code,) = (n for n in graphs["residual"] if n.op == "quantize")
    cut = graphs["residual"].replace([n for n in graphs["residual"] if n.op != "dequantize"], outputs=["readout"])
    with pytest.raises(Unsupported, match="no sum over time"):
        to_nir(cut)
    with pytest.raises(Unsupported, match="one input and one output"):
        to_nir(cut.replace(cut.nodes, outputs=["readout", code.name]))
