"""Estimate from end to end: energies of memory, peaks, operators timed in C and in PyTorch, names of models, the page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from netwright.cli import main
from netwright.cli.model import counted_graph, example
from netwright.core import Graph, NetwrightError, Node, Quantity, Spec, Target
from netwright.deploy.c99 import build, emit
from netwright.deploy.profile import profile, timed_source
from netwright.design import trace
from netwright.design.trace import exported
from netwright.estimate import cost, table
from netwright.estimate.energy import level, memory_at, memory_energy
from netwright.measure.operators import time_operators
from netwright.pipeline import costing
from netwright.report.estimate import render_estimate, write_estimate

CMOS = Target.load("cmos45")
TARGETS = ("cmos45", "cortex-m4", "cortex-m7", "aarch64", "a100")


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 8, 1), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 10)).eval()


@pytest.fixture(scope="module")
def graph() -> Graph:
    return trace(net(), torch.zeros(1, 3, 16, 16))


def fake(graph: Graph, factor: float = 2.0) -> costing.Timing:
    """A timing in which every operation takes `factor` us."""
    operators = {n.name: Quantity(factor, "us", "measured", (factor, factor)) for n in graph if n.op not in ("input", "reshape")}
    peak = {of: Quantity(1e9, "x/s", "measured", note="of a test") for of in ("mac_float32", "byte")}
    return costing.Timing("PyTorch", 1, operators, Quantity(100.0, "us", "measured", (90.0, 110.0)), peak)


# --- energy -------------------------------------------------------------------------------------------------------------
def test_a_linear_layer_pays_for_its_weights_input_and_output_once():
    graph = trace(nn.Linear(8, 4), torch.zeros(1, 8))
    assert memory_at(graph, CMOS)["linear"] == {"byte_8k": 4 * (8 * 4 + 4) + 4 * (8 + 4)}
    assert memory_energy(graph, CMOS).value == pytest.approx(1.25 * 4 * (36 + 12))


def test_weights_and_activations_lie_in_the_smallest_memory_that_holds_them():
    sizes = {8192: "byte_8k", 8193: "byte_32k", 2**20: "byte_1m", 2**20 + 1: "byte_dram"}
    assert {size: level(size, CMOS) for size in sizes} == sizes
    wide = Graph(
        (Node("x", "input", (), Spec((1, 4096))), Node("y", "linear", ("x",), Spec((1, 4)), {}, {"weight": "w"}, 16384)),
        ("y",), {"w": Spec((4, 4096))},
    )  # fmt: skip
    assert memory_at(wide, CMOS)["y"] == {"byte_1m": 4 * 16384, "byte_32k": 4 * 4100}
    small = replace(CMOS, energy_pj={k: v for k, v in CMOS.energy_pj.items() if k != "byte_dram"})
    with pytest.raises(NetwrightError, match="must be held"):
        level(2**21, small)


def test_arithmetic_and_memory_are_two_figures_and_the_rows_add_up_to_each(graph: Graph):
    total, rows = cost(graph, CMOS), table(graph, CMOS)
    for name in ("energy", "energy_traffic"):
        assert sum(r[name] for r in rows) == pytest.approx(total[name].value) and total[name].how == "modelled"
        assert "Horowitz" in total[name].note
    assert "no memory traffic" in total["energy"].note and "memory traffic only" in total["energy_traffic"].note
    blind = replace(CMOS, energy_pj={k: v for k, v in CMOS.energy_pj.items() if not k.startswith("byte_")})
    assert cost(graph, blind)["energy"] == total["energy"] and "energy_traffic" not in cost(graph, blind)


# --- peaks and targets --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", TARGETS)
def test_every_figure_of_a_target_has_a_source(name: str):
    target = Target.load(name)
    assert not ({f"peak.{of}" for of in target.peak} | set(target.energy_pj)) - target.source.keys()
    assert set(target.peak) <= {"mac_float32", "mac_int8", "mac_binary", "byte"}


def test_a_target_with_peaks_gives_a_modelled_roofline_and_says_whose_it_is(graph: Graph):
    found = costing.known("n", graph, Target.load("a100"))
    assert found.total["latency_bound"].how == "modelled" and "energy" not in found.total
    assert found.peak["mac_float32"].value == 9.75e12 and "datasheet" in found.peak["mac_float32"].note
    assert any("no energies" in note for note in found.notes)
    convolution = next(r for r in found.rows if r["op"] == "conv2d")
    assert convolution["bound"] >= convolution["ideal"] > 0 and convolution["latency"] is None


def test_a_kind_of_product_without_a_peak_is_a_note_and_no_error():
    found = costing.known("signs", costing.friendly("mac_binary"), Target.load("cortex-m4"))
    assert found.roofline is None and any("mac_binary" in note for note in found.notes)
    assert found.total["binary_ops"].value == found.total["macs"].value


def test_here_peaks_are_measured_for_the_products_that_the_graph_has(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(costing, "machine_peak", lambda timer: {"mac_float32": 1e9, "byte": 2e9})
    monkeypatch.setattr(costing, "profile", lambda *a, **k: {"c": Quantity(4.0, "us", "measured", (2.0, 8.0))})
    layer = costing.friendly("mac_int8")
    found = costing.peaks_here(layer, rounds=1)
    assert found.keys() == {"mac_float32", "byte", "mac_int8"}
    assert found["mac_int8"].value == pytest.approx(layer.macs / 2e-6) and found["mac_int8"].how == "measured"


def test_a_peak_is_never_below_what_a_layer_reaches(graph: Graph):
    timing = fake(graph, 1e-3)
    found = costing.raised(timing.peak, graph, timing.operators)
    assert found["mac_float32"].value == pytest.approx(max(n.macs for n in graph) / 1e-9) and found["byte"] == timing.peak["byte"]
    layers = costing.gaps(graph, found, timing).layers
    assert max(layer.efficiency for layer in layers) == pytest.approx(1.0)
    assert costing.raised(found, graph, fake(graph, 1e6).operators) == found


# --- operators ----------------------------------------------------------------------------------------------------------
def test_a_clock_around_every_call_changes_no_result(graph: Graph, tmp_path: Path):
    emitted = emit(graph)
    clocked = timed_source(emitted)
    assert set(emitted.nodes) <= {n.name for n in graph} and clocked.c.count("nw_now() - nw_at") == len(emitted.nodes) + 1
    timed = profile(graph, tmp_path, rounds=3)
    assert timed.keys() == set(emitted.nodes) and all(q.value >= 0 and q.how == "measured" for q in timed.values())
    x = np.random.default_rng(0).standard_normal((1, 3, 16, 16), dtype=np.float32)
    plain = build(graph, tmp_path / "plain")
    from netwright.deploy.loader import CompiledModel

    same = CompiledModel(tmp_path / "profile-1.so", emitted.input_shapes, emitted.output_shapes)
    assert np.array_equal(plain.run_one(x).copy(), same.run_one(x))
    with pytest.raises(NetwrightError, match="was changed"):
        timed_source(replace(emitted, c=re.sub(r"^  step0\(.*\n", "", emitted.c, flags=re.M)))


def test_operators_of_a_program_carry_the_names_of_the_graph():
    x = torch.zeros(1, 3, 16, 16)
    program = exported(net(), (x,))
    timed = time_operators(program, (x,), rounds=3, warmup=1)
    assert {n.name for n in trace(program) if n.op not in ("input", "constant")} <= timed.keys()
    assert all(q.unit == "us" and q.value > 0 for q in timed.values())
    with pytest.raises(NetwrightError, match="0 rounds"):
        time_operators(program, (x,), rounds=0)


def test_measured_stands_next_to_modelled(graph: Graph):
    found = costing.known("n", graph, CMOS, [fake(graph), replace(fake(graph), threads=2)])
    assert found.total["latency"].how == found.total["latency_2_threads"].how == "measured"
    row = next(r for r in found.rows if r["op"] == "conv2d")
    assert row["latency"] == 2.0 and row["efficiency"] == pytest.approx(row["ideal"] / 2.0)
    assert found.total["latency_layers"].value == pytest.approx(12)
    assert found.timings[0].elsewhere == pytest.approx(88)
    assert json.loads(json.dumps(found.to_json()))["latency"][1]["threads"] == 2


def test_in_c_what_has_no_call_takes_no_time(graph: Graph):
    timing = replace(fake(graph), engine="C", operators={"conv2d": Quantity(5.0, "us", "measured")})
    layers = {layer.name: layer.latency for layer in costing.gaps(graph, timing.peak, timing).layers}
    assert layers.pop("conv2d") == 5.0 and set(layers.values()) == {0.0}


# --- names of models ----------------------------------------------------------------------------------------------------
CELL = "|nor_conv_3x3~0|+|skip_connect~0|none~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|"


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        (f"nasbench201:{CELL}", 10),
        ("nasbench201:nor_conv_3x3,skip_connect,avg_pool_3x3,none,none,nor_conv_1x1", 10),
        ("spikenas:7", 10),
        ("tiny:conv,1,16,3,2,convnext,2,24,5,1,conv,1,32,3,3", 10),
    ],
)
def test_architectures_of_spaces_are_models(name: str, classes: int):
    graph = counted_graph(name, None)
    assert graph[graph.outputs[0]].spec.shape == (1, classes) and graph.parameters > 0 and not graph.values


def test_an_architecture_that_is_not_in_its_space_is_refused():
    with pytest.raises(NetwrightError, match="15 decisions"):
        counted_graph("tiny:conv,1,16", None)
    with pytest.raises(NetwrightError, match=r"stages.0.width = '17' is not in \[16, 24, 32, 48\]"):
        counted_graph("tiny:conv,1,17,3,2,conv,1,16,3,2,conv,1,16,3,2", None)


def test_the_command_times_a_model_and_its_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(costing, "peaks_here", lambda graph, threads: fake(graph).peak)

    def shown(*arguments: str) -> dict:
        assert main(["estimate", *arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    page = tmp_path / "page.html"
    found = shown("digits_conv", "--measure", "--threads", "1,1", "--rounds", "2", "--html", str(page))
    assert [t["threads"] for t in found["latency"]] == [1, 1] and found["roofline"]["measured"] and "measured" in page.read_text()
    assert main(["deploy", "digits_conv", "--out", str(tmp_path / "bundle")]) == 0
    capsys.readouterr()
    bundle = shown(str(tmp_path / "bundle"), "--measure", "--rounds", "2")
    assert bundle["latency"][0]["engine"] == "C" and bundle["total"]["macs"] == found["total"]["macs"]
    assert main(["estimate", "digits_conv"]) == 0
    assert "energy_traffic" in (text := capsys.readouterr().out) and "head" in text
    assert main(["estimate", "digits_conv", "--measure", "--threads", "none"]) == 1


def test_inputs_have_shapes_and_kinds():
    tokens, image = example("int:1x8+1x3x4x4")
    assert tokens.dtype == torch.long and tokens.shape == (1, 8) and image.dtype == torch.float32
    with pytest.raises(NetwrightError, match="no kind of numbers"):
        example("half:1x8")


# --- the page -----------------------------------------------------------------------------------------------------------
def test_the_page_is_one_file_with_all_figures(graph: Graph, tmp_path: Path):
    found = costing.known("a <net>", graph, CMOS, [fake(graph)])
    page = write_estimate(tmp_path / "page.html", found.to_facts()).read_text()
    assert page.count('class="plot"') == 4 and 'class="netwright-drawing"' in page and "a &lt;net&gt;" in page
    assert not re.search(r'(?:src|href)="(?!#|https://arxiv)', page) and "@import" not in page and "<link" not in page
    for row in found.rows:
        assert f'class="path">{row["path"] or row["name"]}' in page
    assert "energy of the memory traffic, beside it" in page and "On the Efficiency of Convolutional" in page


def test_the_page_without_peaks_has_no_roofline(graph: Graph):
    page = render_estimate(costing.known("n", graph, CMOS).to_facts())
    assert page.count('class="plot"') == 1 and 'id="time"' not in page
