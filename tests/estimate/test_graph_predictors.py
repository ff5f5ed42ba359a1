import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from netwright.bench.cells import Cells
from netwright.bench.estimate.graphs import BOUNDS, Graphs
from netwright.core.errors import DataError, MissingExtra, NetwrightError
from netwright.core.graph import Graph
from netwright.design import trace
from netwright.estimate.predictors import AIOP, GENNAPE
from netwright.estimate.predictors.aiop import Scaling
from netwright.estimate.predictors.gennape import LARGEST, Mix, fuzzy_means, memberships, operations, spectra
from netwright.estimate.predictors.graph_encoder import TOTALS, Encoder, Reader, network, networks
from netwright.estimate.predictors.role import tau
from netwright.estimate.tables import Cell, Features, describe
from netwright.testing.estimate import toy

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
FAST_G = GENNAPE(hidden=16, layers=2, folds=2, unlabelled=60, steps=120)
FAST_A = AIOP(hidden=16, layers=2, folds=2, steps=150)


@pytest.fixture
def geometric():
    return pytest.importorskip("torch_geometric", reason="graphs are read with the extra 'graph'")


def cells(count: int, seed: int = 0, choices: tuple[str, ...] = OPERATIONS) -> list[Cell]:
    rng = np.random.default_rng(seed)
    return [Cell.from_edges(dict(zip(EDGES, rng.choice(choices, 6), strict=True))) for _ in range(count)]


def labelled(count: int, seed: int = 0, weights: tuple[float, ...] = (1.0, 2.0, -1.0)) -> tuple[Features, np.ndarray]:
    """Cells, and labels that depend on how many operations of each kind lie on a path from end to end."""
    x = describe(cells(count, seed), kinds=("conv1x1", "conv3x3", "pool3x3"))
    names = x.names["graph"]
    means = [x.blocks["graph"][:, names.index(f"{k} mean")] for k in ("conv1x1", "conv3x3", "pool3x3")]
    noise = 0.1 * np.random.default_rng(seed).normal(size=count)
    return x, sum(w * m for w, m in zip(weights, means, strict=True)) + noise


def chain(*names: str) -> Cell:
    n = len(names) + 2
    return Cell.reduced(["input", *names, "output"], np.eye(n, k=1, dtype=int))


class Residual(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, 2, 1)
        self.deep = nn.Conv2d(width, width, 5, 1, 2, groups=width)
        self.top = nn.Linear(width, 4)

    def forward(self, x):
        x = self.first(x)
        return self.top((x + self.deep(x)).mean((2, 3)))


def traced(width: int) -> Graph:
    return trace(Residual(width), torch.zeros(1, 3, 16, 16))


def test_a_traced_network_is_read_as_a_graph_of_operations():
    found = network(graph := traced(8))
    assert found.operations == ("input", "conv3x3", "grouped-conv5x5", "add", "mean", "linear", "output")
    assert found.sides == (1, 3, 5, 1, 1, 1, 1) and found.channels == (3, 8, 8, 8, 8, 4, 4)
    assert found.resolution == (16, 8, 8, 8, 1, 1, 1) and found.macs == graph.macs == 3 * 9 * 8 * 64 + 25 * 8 * 64 + 32
    into = [{u: row[v] for u, row in enumerate(found.counts) if row[v]} for v in range(7)]
    assert into == [{}, {0: 1}, {1: 1}, {1: 1, 2: 1}, {3: 1}, {4: 1}, {5: 1}]
    totals = dict(zip(TOTALS, networks([graph]).blocks["totals"][0], strict=True))
    expect = {"work": np.log1p(graph.macs / 1e9), "nodes": np.log(7), "weighted nodes": np.log(4), "edges": np.log(8)}
    expect |= {"longest path": 5, "mean path": 4.5, "widest": 3}
    assert totals == pytest.approx(expect)
    with pytest.raises(NetwrightError, match="Trace it"):
        network(Graph((), ()))


def test_channels_of_a_cell_are_shares_where_its_output_concatenates():
    m = [[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
    for join, share, work in (("sum", 1.0, 10.0), ("concat", 0.5, 2.5)):
        x = describe([Cell.reduced(["input", "conv3x3", "conv1x1", "output"], m, join), *cells(3)])
        found = Reader(("conv", "input", "output"), np.zeros(3), np.ones(3))(x)
        assert found.nodes[:4, :3].tolist() == [[0, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1]]
        assert found.nodes[1:3, 3:].tolist() == [[3, np.log2(share), 0], [1, np.log2(share), 0]]
        assert found.work[0] == pytest.approx(work)


def test_a_layer_is_that_of_the_equation(geometric):
    x = describe([Cell.reduced(["input", "conv3x3", "output"], [[0, 2, 1], [0, 0, 1], [0, 0, 0]])])
    reader = Reader.of([x])
    torch.manual_seed(0)
    encoder, batch = Encoder(reader, 5, 1), reader(x).batch(np.array([0]))
    m, h = torch.tensor([[0.0, 2, 1], [0, 0, 1], [0, 0, 0]]), batch.nodes
    expect = torch.zeros(3, 5)
    for layer, sums in ((encoder.ahead[0], m.T @ h), (encoder.behind[0], m @ h)):
        expect = expect + layer.lin_root(h) + layer.lin_rel(sums)
    assert torch.allclose(encoder(batch)[0], torch.tanh(expect), atol=1e-6)
    assert torch.allclose(encoder.graphs(batch)[0], torch.cat([expect.tanh().mean(0), expect.tanh()[2]]), atol=1e-6)


def test_an_adapter_reads_what_the_base_gives_beside_its_own(geometric):
    x, _ = labelled(3)
    reader = Reader.of([x])
    torch.manual_seed(0)
    base, adapter, batch = Encoder(reader, 5, 2), Encoder(reader, 4, 2, beside=5), reader(x).batch(np.arange(3))
    below, h = base(batch), batch.nodes
    for i in range(2):
        h, back = torch.cat([below[i], h], 1), batch.edges.flip(0)
        h = (adapter.ahead[i](h, batch.edges, batch.weights) + adapter.behind[i](h, back, batch.weights)).tanh()
    assert torch.equal(adapter(batch, below)[-1], h) and h.shape[1] == 4


def test_vectors_do_not_depend_on_the_order_of_nodes_or_on_company(geometric):
    m = [[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
    twins = [Cell.reduced(["input", *names, "output"], m) for names in (("conv3x3", "conv1x1"), ("conv1x1", "conv3x3"))]
    x = describe([*cells(20), *twins])
    reader = Reader.of([x])
    torch.manual_seed(0)
    encoder, graphs = Encoder(reader, 6, 3), reader(x)
    g = graphs.over(encoder.graphs)
    assert np.allclose(g[20], g[21], atol=1e-6) and not np.allclose(g[20], g[0], atol=1e-3)
    assert np.allclose(g, graphs.over(encoder.graphs, 7), atol=1e-6)
    assert np.allclose(g[5:9], reader(x[5:9]).over(encoder.graphs), atol=1e-6)


def test_spectra_and_bags_of_operations():
    x = describe([chain("conv3x3"), chain("conv3x3", "conv1x1", "conv3x3")])
    found = spectra(Reader.of([x])(x), 4)
    assert np.allclose(found[0], [0, 1, 2, LARGEST]) and np.allclose(found[1], 1 - np.cos(np.pi * np.arange(4) / 4))
    assert operations(x).tolist() == [[0, 1, 1, 1], [1, 2, 1, 1]]


def test_fuzzy_means_find_clusters_and_follow_the_equation():
    rng = np.random.default_rng(0)
    u = np.concatenate([rng.normal(0, 0.1, (40, 3)), rng.normal(2, 0.1, (60, 3))])
    centres = fuzzy_means(u, 2, 1.5, rng)
    assert np.allclose(np.sort(centres[:, 0]), [0, 2], atol=0.1)
    found = memberships(u, centres, 1.5)
    assert np.allclose(found.sum(1), 1) and (found.max(1) > 0.95).all() and len(set(found[:40].argmax(1))) == 1
    far = np.linalg.norm(u[:, None] - centres, axis=2)
    assert found[3, 0] == pytest.approx(1 / sum((far[3, 0] / far[3, k]) ** (2 / 0.5) for k in range(2)))


def test_the_mix_trusts_each_head_where_it_is_right():
    rng = np.random.default_rng(0)
    z, first = rng.normal(size=400), np.arange(400) < 200
    noise = rng.normal(size=400)
    each = np.stack([z + np.where(first, 0.1, 1.0) * noise, z + np.where(first, 1.0, 0.1) * noise], 1)
    members = np.stack([np.where(first, 0.95, 0.05), np.where(first, 0.05, 0.95)], 1)
    mix = Mix.of(each, z, members, prior=5.0)
    mean, std = mix(each, members)
    assert mix.weights[0, 0] > 0.9 and mix.weights[1, 1] > 0.9 and np.allclose(mix.weights.sum(1), 1)
    assert ((mean - z) ** 2).mean() < 0.3 * min(((each - z[:, None]) ** 2).mean(0)) and (std > 0).all()


def test_contrastive_vectors_of_similar_graphs_lie_near(geometric):
    x, _ = labelled(200)
    model = FAST_G.pretrain(x, np.random.default_rng(0))
    found = model.pretrained
    graphs = found.reader(x)
    u = found.directions(found.vectors(graphs))
    values, counts = spectra(graphs, 11), operations(x)
    d = np.sqrt(((values[:, None] - values) ** 2).sum(-1)) + np.maximum(counts.sum(1)[:, None], counts.sum(1))
    d -= np.minimum(counts[:, None], counts).sum(-1)
    pairs = np.triu_indices(200, 1)
    untrained = replace(FAST_G, unlabelled=1, batch=10_000).pretrain(x, np.random.default_rng(0)).pretrained
    before = untrained.directions(untrained.vectors(untrained.reader(x)))
    assert tau((u @ u.T)[pairs], -d[pairs]) > max(0.4, tau((before @ before.T)[pairs], -d[pairs]) + 0.02)
    assert np.allclose(model.members(found.vectors(graphs)).sum(1), 1)


@pytest.mark.parametrize("model", [FAST_G, FAST_A], ids=lambda m: m.name)
def test_cells_are_learnt_and_another_space_is_ranked(geometric, model):
    (x, y), (other, true) = labelled(300), labelled(150, seed=1)
    fitted = model.fit(x[:100], y[:100], np.random.default_rng(0))
    again = model.fit(x[:100], y[:100], np.random.default_rng(0))
    assert tau(fitted.score(x[100:]), y[100:]) > 0.55 and fitted.tau > 0.4
    assert np.array_equal(fitted.score(x[100:]), again.score(x[100:]))
    found = fitted.predict(x[100:])
    assert 0.75 <= float(((found.low <= y[100:]) & (y[100:] <= found.high)).mean()) <= 1
    wide = tuple(replace(c, join="concat") for c in other.cells)
    assert tau(model.rank(x, y, replace(other, cells=wide), np.random.default_rng(0)), true) > 0.5
    fives = tuple(replace(c, operations=tuple(o.replace("3x3", "5x5") for o in c.operations)) for c in other.cells)
    assert tau(model.rank(x, y, replace(other, cells=fives), np.random.default_rng(0)), true) > 0.4


def test_scaled_labels_come_back():
    x, y = labelled(30)
    graphs = Reader.of([x])(x)
    scaling = Scaling.of(y, graphs, True)
    t = scaling.scale(y, graphs)
    assert t.mean() == pytest.approx(0, abs=1e-9) and t.std() == pytest.approx(1) and np.allclose(scaling.back(t, graphs), y)
    divisor = 1 + np.log10(1 + graphs.work)
    assert np.allclose(t * scaling.deviation + scaling.mean, (y - y.min() + 1) / divisor)
    assert np.allclose(Scaling.of(y, graphs, False).scale(y, graphs), (y - y.mean()) / y.std())


def test_adapters_leave_the_base_as_it_is_and_help_where_labels_are_few(geometric):
    rng = np.random.default_rng(0)
    first, second, (x, y) = labelled(300, 2, (1.0, 1.0, 1.0)), labelled(300, 3, (1.0, 2.0, -0.8)), labelled(300, 4)
    bare, both = FAST_A.pretrain([first], rng), FAST_A.pretrain([first, second], rng)
    modules = [both.backbone.base, both.backbone.head, *both.backbone.adapters[0]]
    before = [p.clone() for m in modules for p in m.parameters()]
    fitted = both.fit(x[:12], y[:12], np.random.default_rng(0))
    assert all(map(torch.equal, before, (p for m in modules for p in m.parameters())))
    scratch = FAST_A.fit(x[:12], y[:12], np.random.default_rng(0))
    assert tau(fitted.score(x[12:]), y[12:]) > max(tau(scratch.score(x[12:]), y[12:]) + 0.05, 0.6)
    assert tau(both.zero_shot(x), y) > tau(bare.zero_shot(x), y) + 0.05
    base = [p.clone() for p in bare.backbone.base.parameters()]
    assert not np.array_equal(bare.rank(*second, x, rng), bare.zero_shot(x))
    assert all(map(torch.equal, base, bare.backbone.base.parameters()))


def test_traced_networks_can_be_ranked(geometric):
    x = networks([traced(width) for width in range(4, 40, 2)])
    y = x.blocks["totals"][:, 0]
    for model in (FAST_G, FAST_A):
        assert tau(model.fit(x[:14], y[:14], np.random.default_rng(0)).score(x), y) > 0.5, model.name


def test_without_graphs_numbers_are_read_and_the_extra_is_not_needed(monkeypatch):
    for name in ("torch_geometric", "torch_geometric.nn"):
        monkeypatch.setitem(sys.modules, name, None)
    x, y = toy(160, np.random.default_rng(0))
    for model in (FAST_G, FAST_A):
        assert tau(model.fit(x[:120], y[:120], np.random.default_rng(0)).score(x[120:]), y[120:]) > 0.3
        with pytest.raises(MissingExtra, match=r"netwright\[graph\]"):
            model.fit(*labelled(30), np.random.default_rng(0))


def test_errors_say_what_to_do(geometric):
    (x, y), (plain, other) = labelled(30), toy(30, np.random.default_rng(0))
    with pytest.raises(NetwrightError, match="one or more pairs"):
        FAST_A.pretrain([], np.random.default_rng(0))
    with pytest.raises(NetwrightError, match="some features hold graphs"):
        FAST_A.pretrain([(x, y), (plain, other)], np.random.default_rng(0))
    with pytest.raises(NetwrightError, match="no backbone"):
        FAST_A.zero_shot(x)
    with pytest.raises(NetwrightError, match="hold no graphs"):
        FAST_G.fit(x, y, np.random.default_rng(0)).score(plain)


def test_claims_without_data_say_so(tmp_path, monkeypatch):
    monkeypatch.delenv("NETWRIGHT_DATA", raising=False)
    stages = Graphs(Cells(tmp_path)).stages()
    assert sorted(id for _, some in stages.values() for id in some) == sorted(BOUNDS)
    for measure, _ in stages.values():
        with pytest.raises(DataError, match="NETWRIGHT_DATA"):
            list(measure())
