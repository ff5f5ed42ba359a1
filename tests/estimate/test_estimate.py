from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from netwright.core import Graph, NetwrightError, Node, Spec, Target
from netwright.design import trace
from netwright.estimate import cost, energy, table
from netwright.estimate.energy import events

CMOS = Target.load("cmos45")


@pytest.fixture(scope="module")
def float_graph() -> Graph:
    layers = [
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 10),
    ]
    return trace(nn.Sequential(*layers), torch.zeros(1, 1, 8, 8))


def integer(op: str, bits: int) -> Graph:
    """input -> quantize -> one convolution of 4x3x3x3 on 8x8 -> dequantize."""
    codes, params = Spec((1, 3, 8, 8), 8, "int"), {"w": Spec((4, 3, 3, 3), bits, "int"), "s": Spec((4,))}
    params |= {r: Spec((4,), 32, "int") for r in ("mult", "shift")}
    roles = {"weight": "w", "mult": "mult", "shift": "shift"}
    nodes = (
        Node("x", "input", (), Spec((1, 3, 8, 8))),
        Node("q", "quantize", ("x",), codes),
        Node(
            "c",
            op,
            ("q",),
            Spec((1, 4, 8, 8), 8, "int"),
            {"bits": bits},
            roles,
            4 * 64 * 27,
        ),
        Node("y", "dequantize", ("c",), Spec((1, 4, 8, 8)), {}, {"scale": "s"}),
    )
    return Graph(nodes, ("y",), params)


def spiking(rate: float = 0.1, steps: int = 8) -> Graph:
    current, train = Spec((1, 4, 8, 8), 32, "int"), Spec((1, 4, 8, 8), 8, "int", rate, steps)
    params = {
        "w1": Spec((4, 3, 3, 3), 8, "int"),
        "w2": Spec((10, 256), 8, "int"),
        "theta": Spec((4,), 32, "int"),
        "s": Spec((1,)),
    }
    nodes = (
        Node("x", "input", (), Spec((1, 3, 8, 8))),
        Node("q", "quantize", ("x",), Spec((1, 3, 8, 8), 8, "int")),
        Node("c", "qconv2d", ("q",), current, {"bits": 8}, {"weight": "w1"}, 4 * 64 * 27),
        Node("n", "integrate", ("c",), train, {"steps": steps, "current_steps": 1, "rule": "if", "limit": 0}, {"theta": "theta"}),
        Node("r", "reshape", ("n",), replace(train, shape=(1, 256))),
        Node("l", "qlinear", ("r",), Spec((1, 10), 32, "int", 1.0, steps), {"bits": 8}, {"weight": "w2"}, 2560),
        Node("o", "readout", ("l",), Spec((1, 10), 32, "int"), {"steps": steps, "start": 0}),
        Node("y", "dequantize", ("o",), Spec((1, 10)), {}, {"scale": "s"}),
    )
    return Graph(nodes, ("y",), params)


def test_float_counts_are_the_hand_counts(float_graph: Graph):
    c = cost(float_graph, CMOS)
    assert c["macs"].value == 4 * 64 * 9 + 40
    assert c["parameters"].value == 4 * 9 + 4 + 2 * 4 + 40 + 10
    assert c["weight_bytes"].value == 4 * (c["parameters"].value + 2 * 4)  # the running statistics are stored too
    assert c["bops"].value == c["macs"].value * 32 * 32
    assert c["binary_ops"].value == c["synaptic_ops"].value == c["analog_macs"].value == 0
    assert all(q.how == "counted" for name, q in c.items() if not name.startswith("energy"))


def test_float_energy_is_macs_times_4_6_and_the_elementwise_work(float_graph: Graph):
    found = energy(float_graph, CMOS)
    assert found.value == pytest.approx(4.6 * (4 * 64 * 9 + 40 + 256) + 0.9 * 256)  # batch norm 256 MACs, mean 256 additions
    assert found.how == "modelled" and found.unit == "pJ"
    assert "Horowitz" in found.note and "4.6" in found.note


@pytest.mark.parametrize(
    ("op", "bits", "constant"),
    [("qconv2d", 8, "mac_int8"), ("qconv2d", 2, "add_int8"), ("qconv2d", 1, "add_int8"), ("bconv2d", 1, "mac_binary")],
)
def test_a_product_costs_what_its_bits_cost(op: str, bits: int, constant: str):
    found = events(integer(op, bits))
    assert found.pop(constant) == 4 * 64 * 27
    assert found == {"mul_float32": 192 + 256, "mul_int32": 256, "add_int32": 256}


def test_fewer_bits_cost_less():
    by_bits = [energy(integer(op, bits), CMOS).value for op, bits in (("qconv2d", 8), ("qconv2d", 2), ("bconv2d", 1))]
    assert by_bits == sorted(by_bits, reverse=True)
    assert cost(integer("bconv2d", 1))["binary_ops"].value == cost(integer("bconv2d", 1))["bops"].value == 4 * 64 * 27


def test_spiking_counts_events_and_the_analog_layer_once():
    c = cost(spiking(0.1, 8))
    assert c["synaptic_ops"].value == pytest.approx(0.1 * 8 * 2560)
    assert c["analog_macs"].value == 4 * 64 * 27
    found = events(spiking(0.1, 8))
    assert found["mac_int8"] == 4 * 64 * 27
    assert found["add_int8"] == pytest.approx(0.1 * 8 * 2560)
    assert found["add_int32"] == 2 * 256 * 8 + 10 * 8  # membranes, readout


def test_spiking_energy_grows_with_rate_and_steps():
    low, more, longer = (energy(spiking(r, t), CMOS).value for r, t in ((0.1, 8), (0.3, 8), (0.1, 16)))
    assert more - low == pytest.approx(0.2 * 8 * 2560 * 0.03)
    assert longer > low


def test_spikes_reach_the_weights_behind_their_sum():
    g = spiking(0.1, 8)
    pooled = Node("p", "isum", ("n",), Spec((1, 4, 1, 1), 32, "int", 1.0, 8))
    flat = Node("r", "reshape", ("p",), Spec((1, 4), 32, "int", 1.0, 8))
    head = Node("l", "qlinear", ("r",), Spec((1, 10), 32, "int", 1.0, 8), {"bits": 8}, {"weight": "w2"}, 40)
    g = g.replace([*g.nodes[:4], pooled, flat, head, *g.nodes[6:]])
    assert cost(g)["synaptic_ops"].value == pytest.approx(0.1 * 256 * 8 * 10)
    assert cost(g)["analog_macs"].value == events(g)["mac_int8"] == 4 * 64 * 27
    assert events(g)["add_int32"] == pytest.approx(2 * 256 * 8 + 10 * 8 + 0.1 * 256 * 8)


def test_the_table_sums_to_the_totals(float_graph: Graph):
    rows = table(float_graph)
    assert json.loads(json.dumps(rows)) == rows
    assert sum(r["macs"] for r in rows) == float_graph.macs
    assert sum(r["params"] for r in rows) == float_graph.parameters
    assert math.isclose(sum(r["share"] for r in rows), 1.0)
    assert [r["op"] for r in rows] == ["conv2d", "batch_norm", "relu", "mean", "linear"]
    assert rows[0]["shape"] == [1, 4, 8, 8] and rows[0]["weight_bits"] == 32 and rows[2]["weight_bits"] == 0


def test_a_shared_parameter_is_counted_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return self.fc(self.fc(x))

    graph = trace(Twice(), torch.zeros(1, 4))
    assert [r["params"] for r in table(graph)] == [20, 0]


def test_a_target_without_the_constant_is_refused(float_graph: Graph):
    with pytest.raises(NetwrightError, match="no energy for add_float32, mac_float32"):
        energy(float_graph, replace(CMOS, energy_pj={"mac_int8": 0.2}))


def test_every_constant_has_a_source():
    assert CMOS.energy_pj.keys() == CMOS.source.keys()
    assert CMOS.energy_pj["mac_binary"] == pytest.approx(CMOS.energy_pj["add_int8"] / 8 + CMOS.energy_pj["add_int32"] / 32)
