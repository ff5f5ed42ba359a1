"""Energy in three columns, each against a count by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from netwright.core import Graph, NetwrightError, Node, Spec, Target
from netwright.estimate import spiking_energy

CMOS = Target.load("cmos45")
FIRST, SECOND = 4 * 64 * 27, 10 * 256  # MACs of the two layers
MUL32, ADD32 = 3.1, 0.1


def spiking(rate: float = 0.1, steps: int = 4, rule: str = "if", limit: int = 0) -> Graph:
    """Codes 3x8x8 -> 3x3 convolution -> 256 neurons -> linear 10 -> readout; all currents of whole numbers."""
    train = Spec((1, 4, 8, 8), 8, "int", rate, steps)
    params = {
        "w1": Spec((4, 3, 3, 3), 8, "int"),
        "w2": Spec((10, 256), 8, "int"),
        "theta": Spec((4,), 32, "int"),
        "s": Spec((1,)),
    }
    neuron = {"steps": steps, "current_steps": 1, "rule": rule, "limit": limit}
    nodes = (
        Node("x", "input", (), Spec((1, 3, 8, 8))),
        Node("q", "quantize", ("x",), Spec((1, 3, 8, 8), 8, "int")),
        Node("c", "qconv2d", ("q",), Spec((1, 4, 8, 8), 32, "int"), {"bits": 8}, {"weight": "w1"}, FIRST),
        Node("n", "integrate", ("c",), train, neuron, {"theta": "theta"}),
        Node("r", "reshape", ("n",), replace(train, shape=(1, 256))),
        Node("l", "qlinear", ("r",), Spec((1, 10), 32, "int", 1.0, steps), {"bits": 8}, {"weight": "w2"}, SECOND),
        Node("o", "readout", ("l",), Spec((1, 10), 32, "int"), {"steps": steps, "start": 0}),
        Node("y", "dequantize", ("o",), Spec((1, 10)), {}, {"scale": "s"}),
    )
    return Graph(nodes, ("y",), params)


def test_counts_and_the_column_of_operations():
    e = spiking_energy(spiking(0.1, 4), CMOS)
    assert e.acs == pytest.approx(0.1 * 4 * SECOND) and e.analog_macs == FIRST and e.macs == FIRST + SECOND
    assert e.neurons == 256 and e.spikes == pytest.approx(0.1 * 4 * 256) and e.rates == {"n": 0.1}
    assert e.operations.total == pytest.approx(0.9 * 0.4 * SECOND + 4.6 * FIRST)
    assert e.float_operations.total == pytest.approx(4.6 * (FIRST + SECOND))
    assert e.operations.weights == e.operations.values == 0


def test_the_column_with_memory():
    e = spiking_energy(spiking(0.1, 4), CMOS)
    assert e.memory.arithmetic == pytest.approx(0.03 * 0.4 * SECOND + 0.23 * FIRST + ADD32 * (2 * 256 * 4 + 10 * 4))
    assert e.memory.weights == pytest.approx(1.25 * (FIRST + 0.4 * SECOND))  # 108 and 2560 bytes: both fit 8 KB
    state = 2 * 32 * 4  # read and written in every step
    current = 32 * (1 + 4)  # of the first layer: written once, read in every step
    spikes = 1 * 4 * 2  # written and read
    assert e.memory.values == pytest.approx(1.25 * (256 * (state + current + spikes) / 8 + 192))


@pytest.mark.parametrize(("steps", "bits"), [(1, 1), (3, 2), (4, 3), (7, 3), (8, 4), (15, 4), (16, 5)])
def test_the_matched_twin_has_the_bits_of_the_spike_count(steps: int, bits: int):
    e = spiking_energy(spiking(0.1, steps), CMOS)
    assert e.bits == bits
    products = 0.2 * (FIRST + SECOND * bits / 8) + 0.03 * (FIRST + SECOND)
    assert e.matched.arithmetic == pytest.approx(products + 256 * (MUL32 + ADD32))
    assert e.matched.weights == e.int8.weights == pytest.approx(1.25 * (FIRST + SECOND))
    assert e.matched.values == pytest.approx(1.25 * (192 + 2 * 256 * bits / 8))
    assert e.int8.values == pytest.approx(1.25 * (192 + 2 * 256))


def test_a_product_of_8_by_8_bits_is_the_targets_mac():
    e = spiking_energy(spiking(), CMOS)
    assert e.int8.arithmetic == pytest.approx(CMOS.energy_pj["mac_int8"] * e.macs + 256 * (MUL32 + ADD32))


@pytest.mark.parametrize(("rule", "limit", "bits"), [("bipolar", 0, 4), ("memory", 7, 3), ("memory", 0, 3), ("burst", 3, 4)])
def test_other_neurons_carry_other_counts(rule: str, limit: int, bits: int):
    assert spiking_energy(spiking(0.1, 4, rule, limit), CMOS).bits == bits


def test_the_twin_does_not_depend_on_rates_and_the_spiking_network_does():
    low, high = (spiking_energy(spiking(r, 8), CMOS) for r in (0.05, 0.5))
    assert low.matched == high.matched and low.int8 == high.int8
    assert high.memory.weights - low.memory.weights == pytest.approx(1.25 * 0.45 * 8 * SECOND)


def test_spikes_that_are_summed_first_reach_the_weights_behind_the_sum():
    """Average pooling by 2: a quarter of the places, all of the spikes; a sum over the image, the same."""
    g, window = spiking(0.1, 4), {"stride": [2, 2], "pads": [0] * 4, "dilation": [1, 1], "groups": 4}
    pool = Node("p", "qconv2d", ("n",), Spec((1, 4, 4, 4), 8, "int", 0.3, 4), window, {"weight": "ones"})
    flat = Node("r", "reshape", ("p",), Spec((1, 64), 8, "int", 0.3, 4))
    head = replace(g["l"], macs=640)
    pooled = Graph((*g.nodes[:4], pool, flat, head, *g.nodes[6:]), g.outputs, {**g.params, "ones": Spec((4, 1, 2, 2), 8, "int")})
    assert spiking_energy(pooled, CMOS).acs == pytest.approx(0.1 * 4 * 256 * 10)  # spikes * fan-out
    total = Node("p", "isum", ("n",), Spec((1, 4, 1, 1), 32, "int", 1.0, 4))
    place = replace(flat, spec=Spec((1, 4), 32, "int", 1.0, 4))
    summed = Graph((*g.nodes[:4], total, place, replace(head, macs=40), *g.nodes[6:]),
                   g.outputs, g.params)  # fmt: skip
    e = spiking_energy(summed, CMOS)
    assert e.acs == pytest.approx(0.1 * 4 * 256 * 10) and e.analog_macs == FIRST


def test_larger_memories_cost_more_a_byte():
    g = spiking(0.1, 4)
    wide = replace(g, params={**g.params, "w2": Spec((10, 25600), 8, "int")})
    extra = spiking_energy(wide, CMOS).memory.weights - spiking_energy(g, CMOS).memory.weights
    assert extra == pytest.approx((12.5 - 1.25) * 0.4 * SECOND)  # 256,000 bytes lie in the memory of 1 MB


def test_the_verdict_says_when_the_ordinary_network_costs_less():
    busy = spiking_energy(spiking(0.9, 8), CMOS)
    assert busy.memory.total > busy.int8.total and "costs less than this spiking one" in busy.verdict
    quiet = spiking(0.001, 1)
    quiet = quiet.replace([replace(n, macs=n.macs * 100) if n.op == "qlinear" else n for n in quiet])
    sparse = spiking_energy(quiet, CMOS)
    assert sparse.memory.total < sparse.matched.total and "costs less than both" in sparse.verdict


def test_the_columns_are_modelled_quantities():
    cost = spiking_energy(spiking(), CMOS).to_cost()
    assert set(cost) == {
        "energy_operations", "energy_float_operations", "energy_memory", "energy_matched_twin", "energy_int8_twin",
    }  # fmt: skip
    assert all(q.how == "modelled" and q.unit == "pJ" and "cmos45" in q.note for q in cost.values())
    assert json.dumps(cost.to_json())


def test_what_cannot_be_modelled_is_said():
    with pytest.raises(NetwrightError, match="without neurons"):
        spiking_energy(spiking().replace(spiking().nodes[:2], ("q",)), CMOS)
    bare = replace(CMOS, energy_pj={k: v for k, v in CMOS.energy_pj.items() if not k.startswith("byte")})
    with pytest.raises(NetwrightError, match="no energy for byte_8k"):
        spiking_energy(spiking(), bare)
