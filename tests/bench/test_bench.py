"""Claims are held against their bounds; what cannot be measured is open."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from netwright.bench import Bench, Claim
from netwright.bench.claim import ratio
from netwright.bench.deploy import BOUNDS, Deploy
from netwright.bench.networks import Layers, resnet18, small_cnn
from netwright.core.cost import Quantity
from netwright.design import trace


def test_a_claim_holds_only_within_its_bound() -> None:
    claims = [
        Claim("a", 2.0, "x", "measured"),
        Claim("b", 1.0, "x", "measured"),
        Claim("c", None, "", "measured", why="no such thing"),
    ]
    bench = Bench("t", {"cpu": "x"}, {"a": (">=", 2.0), "b": ("<=", 0.5), "c": ("==", 0.0)}, claims)
    assert [bench.holds(c) for c in claims] == [True, False, False]
    rows = bench.to_json()["claims"]
    assert rows[0]["command"] == "netwright bench t" and rows[2]["value"] is None and rows[2]["why"]


def test_the_file_has_one_line_a_claim(tmp_path: Path) -> None:
    bench = Bench("t", {"cpu": "x"}, {"a": (">=", 2.0)}, [Claim("a", 2.5, "x", "measured", 3, (2.0, 3.0), {"name": "y"})])
    lines = [line for line in bench.write_csv(tmp_path).read_text().splitlines() if not line.startswith("#")]
    (row,) = csv.DictReader(lines)
    assert (row["claim"], row["value"], row["holds"], row["bound"]) == ("a", "2.5", "True", "2.0")


def test_a_ratio_is_theirs_by_ours() -> None:
    timed = {"ours": Quantity(2.0, "us", "measured", (1.0, 4.0)), "theirs": Quantity(10.0, "us", "measured", (8.0, 20.0))}
    claim = ratio("r", timed, "ours", "theirs", 5)
    assert claim.value == 5.0 and claim.spread == (5.0, 8.0)


def test_the_networks_are_the_published_ones() -> None:
    graph = trace(resnet18(), torch.zeros(1, 3, 224, 224))
    assert graph.parameters == 11_689_512
    assert graph.macs == 1_814_073_344
    small = trace(small_cnn((24, 40, 64), 16), torch.zeros(1, 1, 16, 16))
    assert 0.9e6 < small.macs < 1.1e6


def test_every_claim_comes_from_one_stage(tmp_path: Path) -> None:
    stages = Deploy(3, 0, tmp_path).stages()
    found = [c.id for name in ("sparse weights", "spikes") for c in stages[name]()]
    assert found == ["sparse_1x1_90pct_vs_dense", "spike_conv_5pct_256x14_vs_ort_fp32", "spike_conv_5pct_512x7_vs_ort_int8"]
    assert set(found) < set(BOUNDS)


@pytest.mark.parametrize("bits", [1, 2, 8, 32])
def test_layers_are_graphs_that_run(bits: int) -> None:
    from netwright.design.execute import GraphModule

    layers = Layers((1, 8, 5, 5))
    graph = (layers if bits == 32 else layers.codes()).conv(16, 3, bits).graph
    graph = layers.graph if bits == 32 else layers.floats().graph
    y = GraphModule(graph)(torch.from_numpy(np.ones((1, 8, 5, 5), np.float32)))
    assert y.shape == (1, 16, 5, 5)
