"""SpikeNAS-Bench's space: its numbers, its text, its table's parameters, and networks that run and learn."""

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
from netwright.design.spaces import SPACES, SpikeNAS
from netwright.spike.convert.read import unsupported
from netwright.spike.layers import Spiking
from netwright.spike.neurons import LIF

CELL = "|low~0|+|skip~0|none~1|+|high~0|none~1|low~2|"


def parameters(config) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in config.build().parameters())


def small(**more):
    return SpikeNAS(width=8, hidden=16, cluster=2, **more).space((1, 8, 8), 10)


def lif(threshold: float) -> Spiking:
    return Spiking(LIF(tau=4 / 3, theta=threshold, reset="hard"))


def test_numbers_and_text_are_one_to_one():
    space = SPACES["spikenas"]().space((3, 32, 32), 10)
    assert space.size == 15625
    arch = SpikeNAS.parse(CELL)
    assert space.arch(dict(arch.values)) == arch and SpikeNAS.format(arch) == CELL
    assert SpikeNAS.number(arch) == 2 + 1 * 5 + 4 * 25 + 0 + 0 + 2 * 5**5
    for number in range(0, 15625, 7):
        arch = SpikeNAS.from_number(number)
        assert SpikeNAS.number(arch) == number and SpikeNAS.parse(SpikeNAS.format(arch)) == arch
    for number in (-1, 15625):
        with pytest.raises(NetwrightError, match="0 to 15624"):
            SpikeNAS.from_number(number)


@pytest.mark.parametrize(
    "text", ["", CELL[:-8], CELL.replace("low", "lif"), CELL.replace("~2", "~1"), CELL + "|low~0|", " " + CELL]
)
def test_other_text_is_refused(text):
    with pytest.raises(NetwrightError, match="no cell of SpikeNAS-Bench"):
        SpikeNAS.parse(text)


def test_parameters_of_the_benchmark_network():
    """Stem, norms, the convolution between the cells and the head, and 738,048 for each convolution on an edge."""
    space = SpikeNAS().space((3, 32, 32), 10)
    for number, convolutions in ((0, 0), (14862, 6)):
        arch = SpikeNAS.from_number(number)
        assert sum(v in ("low", "middle", "high") for _, v in arch.values) == convolutions
        assert parameters(space.fill(arch)) == 17_179_620 + 738_048 * convolutions


def test_the_cell_is_the_sum_along_its_edges():
    space = small(neuron=lif, steps=3)
    with torch.no_grad():
        x = torch.randn(6, 8, 4, 4)

        def cell(text):
            return space.fill(SpikeNAS.parse(text)).build().eval().cell1(x)

        assert torch.equal(cell("|skip~0|+|skip~0|skip~1|+|skip~0|skip~1|skip~2|"), 4 * x)
        assert torch.equal(cell("|none~0|+|none~0|none~1|+|skip~0|none~1|none~2|"), x)
        assert not cell("|skip~0|+|skip~0|skip~1|+|none~0|none~1|none~2|").any()
        net = space.fill(SpikeNAS.parse("|low~0|+|none~0|skip~1|+|none~0|none~1|skip~2|")).build().eval()
        _, conv, norm = net.cell1.edges["e01_low"]
        spikes = Spiking(LIF(tau=4 / 3, theta=0.5, reset="hard"))(x.reshape(3, 2, 8, 4, 4)).flatten(0, 1)
        assert set(spikes.unique().tolist()) == {0.0, 1.0} and torch.equal(net.cell1(x), norm(conv(spikes)))


def test_a_high_threshold_sends_fewer_spikes():
    x = torch.rand(5, 2, 8, 4, 4, generator=torch.Generator().manual_seed(0)) * 2
    rates = [float(small(neuron=lif).fill(SpikeNAS.from_number(0)).fire(t)(x.flatten(0, 1)).mean()) for t in (0.5, 1.0, 1.5)]
    twins = [float(small().fill(SpikeNAS.from_number(0)).fire(t)(x).mean()) for t in (0.5, 1.0, 1.5)]
    assert rates[0] > rates[1] > rates[2] >= 0 and twins[0] > twins[1] > twins[2]


@pytest.mark.parametrize("neuron", [None, lif], ids=["rates", "spikes"])
def test_any_network_runs_and_learns(neuron):
    space, rng = small(neuron=neuron, steps=3), random.Random(0)
    x, y = torch.rand(20, 1, 8, 8), torch.arange(20) % 10
    for arch in [space.sample(rng) for _ in range(3)] + [SpikeNAS.from_number(0)]:
        assert space.fill(arch).build()(x).shape == (20, 10)
    torch.manual_seed(0)
    net = space.fill(SpikeNAS.parse(CELL.replace("none", "middle"))).build()
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    losses = []
    for _ in range(50):
        loss = torch.nn.functional.cross_entropy(net(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_the_twin_in_rates_converts_and_images_of_any_size_fit():
    net = small().fill(SpikeNAS.parse(CELL)).build().eval()
    assert unsupported(trace(net, torch.zeros(1, 1, 8, 8))) == []
    for shape in ((1, 4, 4), (3, 33, 20), (3, 64, 64)):
        wide = SpikeNAS(width=4, hidden=8, cluster=2).space(shape, 3).fill(SpikeNAS.from_number(77)).build()
        assert wide(torch.rand(2, *shape)).shape == (2, 3)
    with pytest.raises(NetwrightError, match="4 pixels"):
        SpikeNAS().space((1, 3, 8), 2)


def test_weights_are_shared():
    supernet = Supernet(small(neuron=lif, steps=2), seed=0)
    arch, x = SpikeNAS.parse(CELL), torch.rand(8, 1, 8, 8)
    assert {k for k in supernet.weights if "e01_" in k and "cell1" in k and k.endswith("1/weight")} == {
        f"cell1/edges/e01_{name}/1/weight" for name in ("low", "middle", "high")
    }
    torch.manual_seed(0)
    shared = supernet.call(arch, x)
    torch.manual_seed(0)
    assert torch.allclose(shared, supernet.subnet(arch).train()(x))


@pytest.mark.parametrize("neuron", [None, lif], ids=["rates", "spikes"])
def test_operators_can_be_left_out_and_probed(neuron):
    options = SpikeNAS(width=8, hidden=16, cluster=2, steps=2, neuron=neuron, operations=("none", "low", "high"))
    assert options.space((1, 8, 8), 10).size == 3**6 and options.only(("low",)).choices == ("low",)
    for kind in options.choices:
        assert options.probe(kind)(torch.zeros(2, 1, 8, 8)).shape == (2, 2)
    with pytest.raises(NetwrightError, match=r"operator of SpikeNAS-Bench named 'lower'\. Did you mean 'low'"):
        SpikeNAS(operations=("lower",)).space((1, 8, 8), 10)


def test_the_table_of_the_benchmark():
    folder = os.environ.get("NETWRIGHT_DATA")
    path = Path(folder or ".") / "nas" / "spikenasbench_cifar10.csv.gz"
    if not folder or not path.exists():
        pytest.skip("the table of SpikeNAS-Bench is not here: set NETWRIGHT_DATA to the folder that holds nas/")
    space, seen = SpikeNAS().space((3, 32, 32), 10), set()
    with gzip.open(path, "rt") as file:
        for row in csv.DictReader(file):
            arch = SpikeNAS.from_number(int(row["id"]))
            digits = [int(row[f"e{a}{b}"]) for a, b in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))]
            assert [("none", "skip", "low", "middle", "high").index(v) for _, v in arch.values] == digits
            assert SpikeNAS.parse(SpikeNAS.format(arch)) == arch and SpikeNAS.number(arch) == int(row["id"])
            convolutions = sum(d >= 2 for d in digits)
            assert int(row["params"]) == 17_179_620 + 738_048 * convolutions
            seen.add(arch)
    assert len(seen) == space.size == 15625
