"""Cost of any module: definitions by hand counts, torch's flop counter, liveness by brute force, the roofline's identities."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from netwright.core import Cost, Graph, NetwrightError, Node, Quantity, Spec
from netwright.design import trace
from netwright.design.execute import GraphModule
from netwright.estimate import cost, table
from netwright.estimate.count import compare
from netwright.estimate.memory import peak, timeline
from netwright.estimate.roofline import machine_peak, roofline

PEAK = {"mac_float32": 1e9, "byte": 1e9}


class Mixed(nn.Module):
    """Convolutions of three kinds, a standardised weight, attention with a learned table, a class token, tied weights."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.depth = nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False)
        self.up = nn.ConvTranspose2d(8, 4, 2, 2)
        self.standard = nn.Parameter(torch.randn(8, 4, 1, 1))
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.table = nn.Parameter(torch.randn(9, 2))
        self.register_buffer("places", torch.arange(65 * 65).reshape(65, 65) % 9)
        self.register_buffer("shift", torch.randn(8))
        self.q_bias, self.v_bias = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8))
        self.qkv, self.out = nn.Linear(8, 24, bias=False), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.depth(self.stem(x)))
        w = self.standard - self.standard.mean((1, 2, 3), keepdim=True)
        x = F.max_pool2d(F.conv2d(x, w), 2).flatten(2).transpose(1, 2) + self.shift
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        bias = torch.cat([self.q_bias, torch.zeros(8), self.v_bias])
        q, k, v = F.linear(x, self.qkv.weight, bias).reshape(len(x), -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v, self.table[self.places].permute(2, 0, 1).contiguous().unsqueeze(0))
        return self.out(self.out(x.transpose(1, 2).flatten(2))).mean(1)


@pytest.fixture(scope="module")
def mixed() -> tuple[nn.Module, Graph]:
    module = Mixed().eval()
    return module, trace(module, torch.zeros(1, 3, 16, 16))


def test_every_learned_value_counts_once_and_buffers_do_not(mixed: tuple[nn.Module, Graph]):
    module, graph = mixed
    assert graph.parameters == sum(p.numel() for p in module.parameters())
    assert cost(graph)["parameters"].value == graph.parameters == sum(row["params"] for row in table(graph))


def test_a_parameter_that_no_output_needs_does_not_count():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.spare = nn.Linear(4, 4), nn.Parameter(torch.zeros(7))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x))

    assert trace(Twice(), torch.zeros(1, 4)).parameters == 20


def test_a_fixed_matrix_multiplies_and_is_no_parameter():
    class Transformed(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("cosines", torch.randn(6, 4))
            self.layer = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(F.linear(x, self.cosines))

    graph = trace(Transformed(), torch.zeros(1, 4))
    assert graph.parameters == sum(graph.parameters_at.values()) == 21 and graph.macs == 24 + 18
    assert GraphModule(graph)(torch.ones(1, 4)).shape == (1, 3)


def test_what_a_weight_is_computed_from_counts_in_its_place():
    normed = nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 4, 5))
    shared = nn.Conv1d(4, 4, 3, padding=1)
    graph = trace(nn.Sequential(normed, shared, shared), torch.zeros(1, 3, 9))
    assert graph.parameters == (4 * 3 * 5 + 4 + 4) + (4 * 4 * 3 + 4)


def test_macs_are_those_of_torch(mixed: tuple[nn.Module, Graph]):
    graph = mixed[1]
    with torch.no_grad(), torch.device("meta"), FlopCounterMode(display=False) as counter:
        module_on_meta = Mixed().eval().requires_grad_(False)
        module_on_meta(torch.zeros(1, 3, 16, 16))
    assert graph.macs == counter.get_total_flops() // 2


def test_peak_is_the_largest_sum_of_tensors_alive(mixed: tuple[nn.Module, Graph]):
    graph = mixed[1]
    moments = timeline(graph)
    assert peak(graph).bytes == graph.peak_bytes == max(m.bytes for m in moments)
    assert all(sum(size for _, size in m.live) == m.bytes for m in moments)


def test_liveness_by_hand():
    """x (4 B an element) -> a, b read x; c reads both: at c all but x are alive, at b all but c."""
    wide, nodes = Spec((1, 10)), []
    for name, op, inputs in (
        ("x", "input", ()),
        ("a", "relu", ("x",)),
        ("b", "tanh", ("x",)),
        ("r", "reshape", ("a",)),
        ("c", "add", ("r", "b")),
    ):
        nodes.append(Node(name, op, inputs, wide))
    graph = Graph(tuple(nodes), ("c",))
    assert {m.node: m.bytes for m in timeline(graph)} == {"x": 40, "a": 80, "b": 120, "c": 120}
    assert dict(peak(graph).live) == {"x": 40, "a": 40, "b": 40} and graph.peak_bytes == 120


def test_the_roofline_splits_the_gap_between_memory_and_kernel(mixed: tuple[nn.Module, Graph]):
    graph = mixed[1]
    modelled = roofline(graph, PEAK)
    measured = roofline(graph, PEAK, {layer.name: 3 * layer.bound for layer in modelled.layers})
    for layer in measured.layers:
        assert layer.latency == pytest.approx(layer.ideal + layer.memory_gap + layer.kernel_gap)
        assert layer.kernel_gap == pytest.approx(2 * layer.bound)
        assert layer.ideal == pytest.approx(layer.latency * layer.efficiency)  # latency = operations / (peak * efficiency)
        assert layer.efficiency == pytest.approx(layer.ceiling / 3)
        assert layer.submerged == (layer.memory_gap > 0)
    assert measured.latency == pytest.approx(3 * modelled.latency)
    assert modelled.to_cost()["latency_layers"].how == "modelled" and measured.to_cost()["latency_layers"].how == "measured"
    assert modelled.to_cost()["latency_ideal"].value == pytest.approx(graph.macs / 1e9 * 1e6)


def test_a_linear_layer_moves_its_weights_input_and_output_once():
    layer = next(n for n in roofline(trace(nn.Linear(8, 4), torch.zeros(1, 8)), PEAK).layers if n.op == "linear")
    assert layer.bytes == 4 * (8 * 4 + 4 + 8 + 4) and layer.macs == 32
    assert layer.intensity == 32 / layer.bytes and layer.waterline == 1.0 and layer.submerged


def test_a_faster_memory_lifts_layers_out_of_the_water(mixed: tuple[nn.Module, Graph]):
    slow, fast = (roofline(mixed[1], {**PEAK, "byte": rate}) for rate in (1e8, 1e12))
    assert (
        sum(layer.submerged for layer in fast.layers if layer.macs)
        == 0
        < sum(layer.submerged for layer in slow.layers if layer.macs)
    )
    assert fast.efficiency > slow.efficiency
    assert slow.worst(1)[0].memory_gap == max(layer.memory_gap for layer in slow.layers)


def test_what_a_roofline_lacks_is_named(mixed: tuple[nn.Module, Graph]):
    with pytest.raises(NetwrightError, match="peak of byte"):
        roofline(mixed[1], {"mac_float32": 1e9})
    with pytest.raises(NetwrightError, match="elsewhere"):
        roofline(mixed[1], PEAK, {"elsewhere": 1.0})


def test_the_peaks_of_a_machine_come_from_the_timer_that_is_given():
    found = machine_peak(lambda runs: {n: Quantity(2.0, "us", "measured", (1.0, 4.0)) for n in runs}, side=8, megabytes=1)
    assert found == {"mac_float32": pytest.approx(8**3 * 1e6), "byte": pytest.approx(2 * 2**20 * 1e6)}


def test_costs_side_by_side():
    a = Cost(
        {
            "macs": Quantity(10, "MAC", "counted"),
            "latency": Quantity(5, "us", "measured", (4, 6)),
            "old": Quantity(1, "B", "counted"),
        }
    )
    b = Cost(
        {
            "macs": Quantity(30, "MAC", "counted"),
            "latency": Quantity(7, "us", "predicted", (5.5, 9)),
            "new": Quantity(0, "B", "counted"),
        }
    )
    rows = {row["name"]: row for row in compare(a, b)}
    assert list(rows) == ["macs", "latency", "old", "new"]
    assert rows["macs"]["ratio"] == 3 and rows["macs"]["difference"] == 20 and rows["macs"]["apart"]
    assert not rows["latency"]["apart"] and (rows["latency"]["how_a"], rows["latency"]["how_b"]) == ("measured", "predicted")
    assert rows["old"]["b"] is None and rows["new"]["a"] is None and rows["new"]["unit"] == "B"
    with pytest.raises(NetwrightError, match="in MAC, the other in FLOP"):
        compare(a, Cost({"macs": Quantity(20, "FLOP", "counted")}))


@pytest.mark.parametrize(
    ("name", "side", "macs", "values"), [("resnet50", 224, 4.089185, 25.557032), ("convnext_atto", 64, None, None)]
)
def test_published_counts_of_timm_models(name: str, side: int, macs: float | None, values: float | None):
    if find_spec("timm") is None:
        pytest.skip("timm is not installed (pip install 'netwright[zoo]')")
    from netwright.bench.estimate.cost import survey

    found = survey(name, side)
    assert found["counted"] == found["parameters"] and found["macs"] == found["torch_macs"]
    if macs is not None:
        assert found["macs"] / 1e9 == pytest.approx(macs, abs=2e-6)  # the published figure has the 1,000 biases of the classifier
        assert found["parameters"] / 1e6 == values


def test_a_recurrent_layer_multiplies_for_every_row_and_step():
    graph = trace(nn.LSTM(3, 5, batch_first=True, bidirectional=True), torch.zeros(4, 6, 3))
    assert graph.macs == 2 * 4 * 6 * 4 * 5 * (3 + 5)


def test_products_that_no_input_reaches_are_told_from_the_others():
    from netwright.bench.estimate.cost import _Fixed

    x, table = torch.zeros(2, 3), torch.ones(5, 3)
    with torch.no_grad(), _Fixed(x) as counter:
        fixed = torch.eye(5) @ table
        (x * 2) @ fixed.t()
    assert counter.macs == 5 * 5 * 3


@pytest.mark.parametrize("kind", ["bert", "llama", "t5"])
def test_models_of_transformers_by_their_type(kind: str):
    if find_spec("transformers") is None:
        pytest.skip("transformers is not installed (pip install 'netwright[zoo]')")
    from netwright.cli.model import counted_graph, load_module

    name = f"transformers:{kind},hidden_size=32,num_hidden_layers=2,num_attention_heads=2,intermediate_size=48,vocab_size=50"
    name += ",d_kv=16,d_ff=48" if kind == "t5" else ""
    graph = counted_graph(name, None)
    assert graph.parameters == sum(p.numel() for p in load_module(name).parameters()) and graph.macs > 0
    assert not graph.values
