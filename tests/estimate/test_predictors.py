import csv
import gzip
import json
from dataclasses import replace

import numpy as np
import pytest

from netwright.bench.cells import Cells
from netwright.bench.estimate.accuracy import BOUNDS, Accuracy, evaluate, ranks
from netwright.core.errors import DataError, MissingExtra, NetwrightError
from netwright.estimate.predictors import (
    CATALOGUE,
    Auto,
    Boosted,
    Ensemble,
    ExtraTrees,
    GaussianProcess,
    ParZC,
    Ridge,
    RoBoT,
    Transfer,
    prune,
)
from netwright.estimate.predictors.role import Scale, normal_scores, quantile, tau
from netwright.estimate.predictors.transfer import likeness
from netwright.estimate.tables import Cell, Features, describe, make_table, read_table, split
from netwright.testing.estimate import check_predictor, toy

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
SMALL = {
    "boosted": Boosted(trees=60, folds=4),
    "extra-trees": ExtraTrees(trees=30, folds=4),
    "forest": CATALOGUE["forest"](trees=30, folds=4),
    "ensemble": Ensemble(members=(GaussianProcess(), ExtraTrees(trees=30, folds=4))),
    "auto": Auto(members=(GaussianProcess(), ExtraTrees(trees=30, folds=4), Ridge())),
    "robot": RoBoT(trials=12, folds=2),
    "parzc": ParZC(epochs=40, width=32, samples=4, folds=3, rate=2e-3),
    "gennape": CATALOGUE["gennape"](hidden=16, layers=2, folds=2, unlabelled=60, steps=120),
    "aio-p": CATALOGUE["aio-p"](hidden=16, layers=2, folds=5, steps=100),
}
ELSEWHERE = ("fbnetv3", "onnx-net")  # have the contract among their own tests
GRAPHS = ("gennape", "aio-p")


def cells(count: int, seed: int = 0) -> list[Cell]:
    rng = np.random.default_rng(seed)
    return [Cell.from_edges(dict(zip(EDGES, rng.choice(OPERATIONS, 6), strict=True))) for _ in range(count)]


def number(features: Features, name: str) -> list[float]:
    return features.blocks["graph"][:, features.names["graph"].index(name)].tolist()


@pytest.mark.parametrize("name", [n for n in CATALOGUE if n not in ELSEWHERE])
def test_contract(name):
    if name in GRAPHS:
        pytest.importorskip("torch_geometric")
    check_predictor(SMALL.get(name) or CATALOGUE[name]())


def test_cells_reduce_to_what_they_compute():
    chain = Cell.parse("|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|none~1|skip_connect~2|")
    assert chain.operations == ("input", "conv3x3", "conv1x1", "output")
    assert chain.counts == ((0, 1, 0, 1), (0, 0, 1, 0), (0, 0, 0, 1), (0, 0, 0, 0))
    dead = Cell.parse("|none~0|+|none~0|nor_conv_3x3~1|+|none~0|nor_conv_1x1~1|nor_conv_3x3~2|")
    assert dead.operations == ("input", "output") and number(describe([dead]), "alive") == [0.0]
    twice = Cell.from_edges({(0, 1): "skip", (0, 2): "skip", (1, 2): "skip"})
    assert twice.counts == ((0, 2), (0, 0))


def test_isomorphic_cells_share_key_and_features():
    a = Cell.reduced(
        ["input", "conv3x3", "conv1x1", "output"], [[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]], "concat"
    )
    b = Cell.reduced(["input", "conv1x1", "conv3x3", "output"], a.counts, "concat")
    c = Cell.reduced(
        ["input", "conv1x1", "conv3x3", "output"], [[0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]], "concat"
    )
    assert a.key == b.key != c.key and a.key != replace(a, join="sum").key
    found = describe([a, b, c])
    for block in found.blocks.values():
        assert np.allclose(block[0], block[1]) and not np.allclose(block[0], block[2])


def test_features_are_those_of_the_equations():
    cell = Cell.reduced(
        ["input", "conv3x3", "conv1x1", "maxpool3x3", "output"],
        [[0, 1, 0, 1, 0], [0, 0, 1, 0, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]],
    )
    found = describe([cell, cells(1)[0]])
    expect = {
        "paths": np.log(4), "convolutions mean": 1.0, "operations mean": 4 / 3, "convolutions most": 2, "convolutions least": 0,
        "convolutions deviation": (2 / 3) ** 0.5, "flow": np.log(1 + 9 + 9 + 1), "parameters": np.log(1 + 9 + 1),
        "variance": np.log(1 + 2.5), "convolutions mean by share": (1 + 2) / 2.5, "conv3x3 nodes": 1, "input > conv3x3": 1,
        "conv3x3 > output": 1, "direct": 0, "distinct inputs of output": 3, "edges": 6,
    }  # fmt: skip
    for name, value in expect.items():
        assert number(found, name)[0] == pytest.approx(value), name
    shared = describe([Cell.reduced(cell.operations, cell.counts, "concat")])
    assert number(shared, "width")[0] == pytest.approx(1) and number(shared, "parameters")[0] == pytest.approx(
        np.log(1 + 10 / 9 + 2 / 3)
    )


def test_more_cells_get_the_same_columns():
    first = describe(cells(40))
    again = describe(cells(40)[:5], like=first)
    assert again.names == first.names
    for name, block in again.blocks.items():
        assert np.array_equal(block, first.blocks[name][:5])


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".json"])
def test_tables_from_files(tmp_path, suffix):
    rng = np.random.default_rng(0)
    rows = [
        {
            "arch": json.dumps({"edge_ops": {f"{a}-{b}": str(rng.choice(OPERATIONS)) for a, b in EDGES}}),
            "acc": str(i),
            "p": str(i % 7),
        }
        for i in range(30)
    ]
    path = tmp_path / f"table{suffix}"
    if suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        with gzip.open(path, "wt") if suffix == ".csv.gz" else path.open("w") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows([*rows, {**rows[0], "acc": ""}])
    table = read_table(path, "acc", numbers=("p",))
    assert len(table) == 30 and len(table.features.cells) == 30 and set(table.features.blocks) == {"graph", "words", "numbers"}
    with pytest.raises(DataError, match="no column 'accuracy'"):
        read_table(path, "accuracy")


def test_tables_of_codes_and_of_adjacencies():
    codes = make_table([{"arch": f"{a}-k{b}_e{a}", "y": str(a + b)} for a in range(3) for b in (3, 5)], "y")
    assert codes.features.names["code"] == ("0",) and codes.features.names["choice"][3] == "1=k3_e0"
    row = {"m": "0110" + "0001" + "0001" + "0000", "ops": "conv3x3|maxpool3x3", "y": "1"}
    assert make_table([row], "y", ("m", "ops")).features.cells[0].join == "concat"
    edges = {f"e{a}{b}": "2" for a, b in EDGES}
    assert (
        make_table([{**edges, "y": "1"}], "y", tuple(edges), operations=OPERATIONS).features.cells[0].operations.count("conv1x1")
        == 6
    )
    assert len(make_table([{"arch": "a-b", "y": "1"}, {"arch": "a", "y": "2"}], "y")) == 2
    with pytest.raises(DataError, match="is not a cell"):
        make_table([{"arch": "|a~0|", "y": "1"}, {"arch": "|a~0", "y": "1"}, {"arch": "a", "y": "1"}], "y")
    with pytest.raises(DataError, match="upper triangular"):
        Cell.reduced(["input", "output"], [[0, 0], [1, 0]])


def test_splits_share_no_class():
    classes = np.random.default_rng(0).integers(0, 50, 400)
    train, test = split(classes, 20, np.random.default_rng(1))
    assert len(train) == 20 == len(set(classes[train])) and not set(classes[train]) & set(classes[test])
    assert len(test) == (~np.isin(classes, classes[train])).sum()
    with pytest.raises(DataError, match="fewer labels"):
        split(classes, 50, np.random.default_rng(1))


def test_scale_and_quantile():
    y = np.random.default_rng(0).gamma(2.0, size=64)
    scale = Scale.of(y)
    assert np.allclose(scale.back(normal_scores(y)), y)
    assert scale.back(np.array([9.0]))[0] > y.max() and scale.back(np.array([-9.0]))[0] < y.min()
    assert quantile(np.arange(1.0, 20.0), 0.9) == 18.0


def test_intervals_hold_on_average():
    """Mean coverage of many small samples, which a systematic error would move."""
    found = []
    for seed in range(12):
        x, y = toy(532, np.random.default_rng(seed))
        p = GaussianProcess().fit(x[:32], y[:32], np.random.default_rng(seed)).predict(x[32:])
        found.append(((p.low <= y[32:]) & (y[32:] <= p.high)).mean())
    assert 0.85 <= np.mean(found) <= 0.95


def test_auto_says_why():
    x, y = toy(120, np.random.default_rng(0))
    fitted = Auto(members=(Ridge(), ExtraTrees(trees=20, folds=4))).fit(x, y, np.random.default_rng(0))
    assert "ridge" in fitted.why and "extra-trees" in fitted.why and "held-out" in fitted.why


def test_pruning_keeps_the_better_part():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, (400, 6)).astype(float)
    y = x[:, 0] - (x[:, 1] == 0) + 0.1 * rng.normal(size=400)
    fitted = Boosted(folds=2).fit(x[:150], y[:150], rng)
    pruned = prune(fitted, Features.of(x), keep=0.4, step=0.5, rng=rng)
    assert 0.4 * 400 <= len(pruned.kept) < 300 and y[pruned.kept].mean() > y.mean() + 0.4
    assert all(effect < 0 for *_, effect in pruned.cuts) and pruned.cuts[0][0] in ("numbers0", "numbers1")
    with pytest.raises(NetwrightError, match="share"):
        prune(fitted, Features.of(x), keep=0.0, rng=rng)


def test_lightgbm_is_an_extra():
    x, y = toy(60, np.random.default_rng(0))
    try:
        import lightgbm  # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtra, match="gbm"):
            Boosted(engine="lightgbm").fit(x, y, np.random.default_rng(0))
    else:
        assert Boosted(engine="lightgbm", folds=3).fit(x, y, np.random.default_rng(0)).tau > 0.2


def test_transfer_ranks_another_space():
    kinds = ("conv1x1", "conv3x3", "pool3x3")
    found = describe([*cells(300), *cells(200, seed=1)], kinds=kinds)
    names = found.names["graph"]
    rng = np.random.default_rng(0)
    y = sum(w * found.blocks["graph"][:, names.index(f"{k} mean")] for w, k in zip((1.0, 2.0, -1.0), kinds, strict=True))
    y = y + 0.05 * rng.normal(size=500)
    source, pool = found[np.arange(300)], found[np.arange(300, 500)]
    rank = Transfer(wide=False, prior=()).rank(source, y[:300], pool, rng)
    assert tau(rank, y[300:]) > 0.6
    with pytest.raises(DataError, match="like the target"):
        Transfer().rank(source[np.arange(20)], y[:20], pool, rng)
    with pytest.raises(DataError, match="kinds="):
        Transfer().rank(describe(cells(30), kinds=("conv3x3",)), y[:30], pool, rng)


def test_likeness_finds_the_cells_of_the_target():
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(500, 3)), rng.normal(size=(300, 3)) + np.array([2.0, 0.0, 0.0])
    w = likeness(source, target)
    assert w.sum() == pytest.approx(1) and w @ source[:, 0] > 0.8 > abs(w @ source[:, 1]) + 0.5
    assert w.max() / w.min() <= np.exp(6) * (1 + 1e-9)


def test_ties_are_broken_at_random():
    y = np.arange(2000.0)
    assert abs(ranks(np.zeros(2000), y, np.random.default_rng(0))["tau"]) < 0.1
    assert ranks(y, y, np.random.default_rng(0)) == {"tau": 1.0, "rho": 1.0, "regret": 0.0}


def test_evaluation_of_any_table():
    rows = [{"arch": f"{a}-{b}-{c}", "y": str(a + 2 * b - c)} for a in range(7) for b in range(7) for c in range(7)]
    found = evaluate(make_table(rows, "y"), 40, 0, Ridge())
    assert found["tau"] > 0.85 and abs(found["baselines"]["random"]["tau"]) < 0.3 and found["regret"] <= 1


def test_claims_without_data_say_so(tmp_path, monkeypatch):
    monkeypatch.delenv("NETWRIGHT_DATA", raising=False)
    accuracy = Accuracy(Cells(tmp_path))
    ids = [id for _, some in accuracy.stages().values() for id in some]
    assert ids == list(BOUNDS)
    for measure, _ in accuracy.stages().values():
        with pytest.raises(DataError, match="NETWRIGHT_DATA"):
            list(measure())
