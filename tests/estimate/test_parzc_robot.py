"""ParZC and RoBoT, the picture of the budgets, and what twins say of labels."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

from netwright.bench.cells import Cells
from netwright.bench.estimate.accuracy import ceiling
from netwright.bench.estimate.mixing import BOUNDS, Mixing, best_of
from netwright.bench.estimate.picture import picture, read
from netwright.core.errors import DataError, NetwrightError
from netwright.estimate.predictors import ParZC, RoBoT
from netwright.estimate.predictors.parzc import Bayesian, kendall, statistics
from netwright.estimate.predictors.robot import standardised, standards
from netwright.estimate.predictors.role import normal_scores, tau
from netwright.estimate.tables import Cell, Features, Table, describe

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
KINDS = ("conv1x1", "conv3x3", "pool3x3")
FAST = ParZC(epochs=40, folds=2, samples=4, width=32, rate=2e-3)


def cells(count: int, seed: int = 0) -> list[Cell]:
    rng = np.random.default_rng(seed)
    return [Cell.from_edges(dict(zip(EDGES, rng.choice(OPERATIONS, 6), strict=True))) for _ in range(count)]


def test_statistics_of_nodes_are_those_of_the_equations():
    """input -> 3x3 -> 1x1 -> output, input -> pool -> output, 3x3 -> output."""
    cell = Cell.reduced(
        ["input", "conv3x3", "conv1x1", "maxpool3x3", "output"],
        [[0, 1, 0, 1, 0], [0, 0, 1, 0, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]],
    )
    output, *nodes, nothing = statistics([cell], KINDS, 5)[0]
    named = {KINDS[int(row[:3].argmax())]: row[3:] for row in nodes}
    flow, share, paths, into, out, depth, height, width, parameters, there = named["conv3x3"]
    assert np.exp(flow) - 1 == pytest.approx(9 * (1 + 1)) and paths == pytest.approx(2 / 3)
    assert share == pytest.approx(1 / 2.5 + 1 / 2.5) and (into, out, depth, height, width, there) == (1, 2, 1, 2, 1, 1)
    assert parameters == pytest.approx(np.log(10))
    assert named["pool3x3"][1] == pytest.approx(0.5 / 2.5) and named["conv1x1"][5] == 2
    assert np.exp(output[3]) - 1 == pytest.approx(1 + 9 + 9) and output[:3].sum() == 0 and not nothing.any()


def test_isomorphic_cells_have_the_same_tokens():
    a = Cell.reduced(
        ["input", "conv3x3", "conv1x1", "conv3x3", "output"],
        [[0, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]], "concat",
    )  # fmt: skip
    b = Cell.reduced(
        ["input", "conv1x1", "conv3x3", "conv3x3", "output"],
        [[0, 1, 1, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]], "concat",
    )  # fmt: skip
    first, second, other = statistics([a, b, replace(a, join="sum")], KINDS, 4)
    assert a.key == b.key and a != b
    assert np.array_equal(first, second) and not np.array_equal(first, other)
    assert np.array_equal(statistics([a], KINDS, 2)[0], first[:2])


def test_smooth_kendall_is_kendall_where_it_is_steep():
    generator = torch.Generator().manual_seed(0)
    f, z = torch.randn(2, 40, generator=generator).double()
    assert float(kendall(f, z, 1e6)) == pytest.approx(1 - kendalltau(f, z)[0])
    assert float(kendall(z, z, 1e6)) == pytest.approx(0) and float(kendall(-z, z, 1e6)) == pytest.approx(2)


def test_the_gradient_of_kendall_mends_the_order():
    z = torch.linspace(-1, 1, 12)
    f = (-z).clone().requires_grad_()
    (slope,) = torch.autograd.grad(kendall(f, z, 0.5), f)
    assert bool((slope[z > 0.2] < 0).all() and (slope[z < -0.2] > 0).all())


def test_bayesian_weights_have_the_spread_that_is_asked():
    layer = Bayesian(1, 1)
    with torch.no_grad():
        layer.mean.fill_(2.0)
        layer.rho.fill_(0.5)
        draws = torch.cat([layer(torch.ones(1, 1), torch.Generator().manual_seed(s))[0] for s in range(4000)])
    spread = float(torch.nn.functional.softplus(torch.tensor(0.5)))
    assert float(draws.mean()) == pytest.approx(2.0, abs=0.06) and float(draws.std()) == pytest.approx(spread, rel=0.06)


@pytest.fixture(scope="module")
def ranked():
    """Cells whose label is a sum over their nodes, with noise."""
    found = describe(cells(420), kinds=KINDS)
    names = found.names["graph"]
    y = sum(w * found.blocks["graph"][:, names.index(f"{k} nodes")] for w, k in zip((1.0, 2.0, -1.0), KINDS, strict=True))
    return found, y + 0.1 * np.random.default_rng(0).normal(size=420)


def test_parzc_ranks_cells_by_their_nodes(ranked):
    x, y = ranked
    seen, unseen = np.arange(160), np.arange(160, 420)
    for loss in ("kendall", "mse"):
        learned = replace(FAST, loss=loss).learn(x[seen], normal_scores(y[seen]), np.random.default_rng(0))
        mean, std = learned(x[unseen])
        assert tau(mean, y[unseen]) > 0.75 and (std >= 1).all() and np.ptp(std) > 0
        assert np.allclose(learned(x[unseen[:5]])[0], mean[:5], atol=1e-4)


def test_parzc_reads_proxies_beside_the_nodes(ranked):
    x, y = ranked
    seen, unseen = np.arange(160), np.arange(160, 420)
    proxy = np.random.default_rng(1).normal(size=(420, 3))
    both = x | Features({"numbers": proxy}, {"numbers": ("a", "b", "c")})
    label = y + 3 * proxy[:, 1]
    z = normal_scores(label[seen])
    with_them, without = (tau(FAST.learn(f[seen], z, np.random.default_rng(0))(f[unseen])[0], label[unseen]) for f in (both, x))
    assert with_them > without + 0.1


def test_robot_mixes_and_searches():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 4))
    y = x[:, 0] - 0.7 * x[:, 1] + 0.05 * rng.normal(size=600)
    asked: list[int] = []

    def query(row: int) -> float:
        asked.append(row)
        return float(y[row])

    found = RoBoT().search(x, query, 25, np.random.default_rng(1))
    assert len(asked) == len(set(asked)) == len(found.rows) == 25 and found.explored <= 24
    assert y[found.best] == max(found.values) and (y > y[found.best]).sum() < 10
    assert found.weights[0] > 0 > found.weights[1] and (np.abs(found.weights) <= 1).all()
    again = RoBoT().search(x, query, 25, np.random.default_rng(1))
    assert again.rows == found.rows
    for budget in (1, 601):
        with pytest.raises(NetwrightError, match="queries"):
            RoBoT().search(x, query, budget, rng)


def test_robot_beats_its_proxies_as_a_predictor():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 3))
    y = x[:, 0] - x[:, 1] + 0.3 * rng.normal(size=500)
    fitted = RoBoT(trials=12, folds=2).fit(x[:60], y[:60], np.random.default_rng(0))
    alone = max(abs(tau(x[60:, p], y[60:])) for p in range(3))
    assert tau(fitted.score(x[60:]), y[60:]) > alone + 0.1


def test_missing_proxies_count_as_the_mean():
    values = np.array([[1.0, np.nan], [3.0, 5.0], [2.0, 7.0]])
    found = standardised(values, *standards(values))
    assert found[0, 1] == 0 and found[:, 0].tolist() == pytest.approx([-1.2247, 1.2247, 0.0], abs=1e-3)


def test_twins_bound_what_can_be_predicted():
    """Truth and noise of equal variance: tau between twins is that of r = 1/2, the ceiling that of its root."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=4000).repeat(3)
    table = Table(Features.of(truth[:, None]), truth + rng.normal(size=12000), np.arange(4000).repeat(3))
    found = ceiling(table, rng)
    assert found["pairs"] == 4000
    assert found["tau"] == pytest.approx(1 / 3, abs=0.02) and found["ceiling"] == pytest.approx(0.5, abs=0.02)
    assert tau(truth, table.y) == pytest.approx(found["ceiling"], abs=0.02)


def test_the_best_of_a_ranking_is_the_best_query():
    asked, counted = np.arange(10.0), np.arange(10.0)[::-1]
    rng = np.random.default_rng(0)
    assert best_of(np.arange(10.0), 3, asked, counted, rng) == 0.0 and best_of(-np.arange(10.0), 3, asked, counted, rng) == 7.0
    assert len({best_of(np.zeros(10), 1, asked, counted, rng) for _ in range(40)}) > 4


def test_the_picture_shows_the_cells(tmp_path):
    ranks = {"tau": 0.31, "rho": 0.4}
    for labels in (100, 172):
        for seed in range(2):
            values = {"tau": 0.7 + seed / 100, "rho": 0.9, "baselines": {"parameters": ranks, "random": {"tau": 0.0, "rho": 0.0}}}
            (tmp_path / f"nb101-{labels}-{seed}.json").write_text(json.dumps({"key": {}, "values": values}))
    (tmp_path / "nb101-to-nb201-0.json").write_text("{}")
    assert list(read(tmp_path, "nb101")) == [100, 172]
    drawn = picture(tmp_path)
    assert "parameters 0.310" in drawn and "auto, 172 labels: 0.705" in drawn and "PINAT" in drawn and "random" not in drawn
    with pytest.raises(DataError, match="no cells"):
        picture(tmp_path / "nothing")


def test_claims_without_data_say_so(tmp_path, monkeypatch):
    monkeypatch.delenv("NETWRIGHT_DATA", raising=False)
    stages = Mixing(Cells(tmp_path)).stages()
    assert [id for _, some in stages.values() for id in some] == list(BOUNDS)
    for measure, _ in stages.values():
        with pytest.raises(DataError, match="NETWRIGHT_DATA"):
            list(measure())
