"""NAS-Bench-201's space: its text, the parameters of the table, the sum along the edges, and networks that run and trace."""

from __future__ import annotations

import csv
import gzip
import os
import random
from pathlib import Path

import pytest
import torch

from netwright.core.errors import NetwrightError
from netwright.design import Supernet, trace
from netwright.design.spaces import SPACES, NASBench201
from netwright.design.spaces.nasbench201 import OPERATIONS
from netwright.spike.convert import unsupported

CELL = "|nor_conv_3x3~0|+|skip_connect~0|none~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|"


def small():
    return NASBench201(width=4, depth=1).space((1, 8, 8), 10)


def parameters(text: str) -> int:
    with torch.device("meta"):
        config = NASBench201().space((3, 32, 32), 10).fill(NASBench201.parse(text))
        return sum(p.numel() for p in config.build().parameters())


def test_text_is_one_to_one():
    space, rng = SPACES["nasbench201"]().space((3, 32, 32), 10), random.Random(0)
    assert space.size == 15625
    assert NASBench201.format(NASBench201.parse(CELL)) == CELL
    for _ in range(200):
        arch = space.sample(rng)
        assert NASBench201.parse(NASBench201.format(arch)) == arch == space.arch(dict(arch.values))


@pytest.mark.parametrize("text", ["", CELL[:-9], CELL.replace("none", "low"), CELL.replace("~2", "~1"), " " + CELL])
def test_other_text_is_refused(text):
    with pytest.raises(NetwrightError, match="no cell of NAS-Bench-201"):
        NASBench201.parse(text)


def test_parameters():
    """73,306 without convolutions in the cells; five 3x3 (1x1) convolutions with norms a stage for each edge that holds one."""
    skip = "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|"
    for kernel in (1, 3):
        more = 5 * sum(c * c * kernel**2 + 2 * c for c in (16, 32, 64))
        assert parameters(skip.replace("skip_connect~2", f"nor_conv_{kernel}x{kernel}~2")) == 73_306 + more
    assert parameters(skip) == parameters(skip.replace("skip_connect", "avg_pool_3x3")) == 73_306


def test_the_cell_is_the_sum_along_its_edges():
    x = torch.randn(3, 4, 8, 8)

    def cell(text):
        return small().fill(NASBench201.parse(text)).build().eval().cells[0]

    with torch.no_grad():
        assert torch.equal(
            cell(
                CELL.replace("nor_conv_3x3", "none").replace("nor_conv_1x1~2", "none~2").replace("avg_pool_3x3", "skip_connect")
            )(x),
            x,
        )
        assert not cell("|skip_connect~0|+|none~0|none~1|+|none~0|none~1|none~2|")(x).any()
        net = cell(CELL)
        relu, conv, norm = net.edges["e23_nor_conv_1x1"]
        pooled = torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        assert torch.equal(net(x), pooled + norm(conv(relu(x)))) and set(net.edges) == {
            "e01_nor_conv_3x3",
            "e03_avg_pool_3x3",
            "e23_nor_conv_1x1",
        }


def test_networks_run_trace_and_share_weights():
    space, x = small(), torch.rand(4, 1, 8, 8)
    for seed in range(5):
        assert space.fill(space.sample(random.Random(seed))).build()(x).shape == (4, 10)
    net = space.fill(NASBench201.parse(CELL.replace("|none~1|nor", "|skip_connect~1|nor"))).build().eval()
    assert trace(net, x[:1]).parameters == sum(p.numel() for p in net.parameters())
    supernet, arch = Supernet(space, seed=0), NASBench201.parse(CELL)
    assert torch.allclose(supernet.call(arch, x), supernet.subnet(arch).train()(x))
    with pytest.raises(NetwrightError, match="multiples of 4"):
        NASBench201().space((3, 30, 32), 10)


def test_operators_can_be_left_out_but_not_invented():
    space = NASBench201(width=4, depth=1, operations=("skip_connect", "nor_conv_1x1")).space((1, 8, 8), 10)
    assert space.size == 2**6
    with pytest.raises(NetwrightError, match=r"operator of NAS-Bench-201 named 'nor_conv_2x2'\. Did you mean 'nor_conv_"):
        _ = NASBench201(operations=("nor_conv_2x2",)).edges
    with pytest.raises(NetwrightError, match="nothing left"):
        NASBench201().only(())


@pytest.mark.parametrize("kind", OPERATIONS)
def test_a_probe_has_its_operator(kind):
    net = NASBench201().probe(kind)
    assert net(torch.zeros(2, 1, 8, 8)).shape == (2, 2)
    held = [key.partition("_")[2] for cell in net.cells if hasattr(cell, "edges") for key in cell.edges]
    assert set(held) == {kind} - {"none", "skip_connect"}


def test_a_node_that_nothing_reaches_is_a_constant_a_channel_and_converts():
    """Behind a node of zeros a convolution and its norm give one value a channel, which is a bias to neurons."""
    net = (
        small().fill(NASBench201.parse("|none~0|+|skip_connect~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_1x1~1|none~2|")).build()
    )
    net(torch.rand(16, 1, 8, 8))
    assert unsupported(trace(net.eval(), torch.zeros(1, 1, 8, 8))) == []


def test_parameters_are_those_of_the_table():
    folder = os.environ.get("NETWRIGHT_DATA")
    path = Path(folder or ".") / "nas"
    if not folder or not (path / "nb201_zc_proxies.csv.gz").exists():
        pytest.skip("the tables of NAS-Bench-201 are not here: set NETWRIGHT_DATA to the folder that holds nas/")

    def rows(name):
        with gzip.open(path / name, "rt") as file:
            return list(csv.DictReader(file))

    texts = {r["idx"]: r["arch"] for r in rows("nb201_main.csv.gz")}
    for row in rows("nb201_zc_proxies.csv.gz")[::2000]:
        assert parameters(texts[row["idx"]]) == round(1e6 * float(row["params"]))
