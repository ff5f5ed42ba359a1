import numpy as np
import pytest

from netwright.bench.cells import Cells
from netwright.bench.estimate.encoders import BOUNDS, Encoders
from netwright.core.errors import DataError, NetwrightError
from netwright.estimate.predictors.fbnetv3 import FBNetV3, Wiring, forward, layers
from netwright.estimate.predictors.role import normal_scores, tau
from netwright.estimate.tables import Cell, Features, describe
from netwright.testing.estimate import check_predictor

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
SMALL = FBNetV3(pretraining=150, width=48, frozen=40, steps=40, members=2, folds=3)


@pytest.fixture(scope="module")
def pool():
    """600 cells, and a label: how many convolutions a path crosses on average, and whether the input goes straight through."""
    rng = np.random.default_rng(0)
    cells = [Cell.from_edges(dict(zip(EDGES, rng.choice(OPERATIONS, 6), strict=True))) for _ in range(600)]
    found = describe(cells)
    names = found.names["graph"]
    graph = found.blocks["graph"]
    y = graph[:, names.index("convolutions mean")] - 0.3 * (graph[:, names.index("direct")] > 0) + 0.05 * rng.normal(size=600)
    return found, y


def test_contract():
    check_predictor(FBNetV3(pretraining=100, width=48, frozen=40, steps=40, members=2, folds=6))


def test_forward_is_that_of_the_equations():
    generator = np.random.default_rng(0)
    import torch

    net = layers((3, 4, 2), 2, torch.Generator().manual_seed(0))
    x = torch.from_numpy(generator.normal(size=(1, 5, 3)).astype(np.float32))
    for m in range(2):
        h = x[0] @ net[0][0][m] + net[0][1][m]
        h = h * torch.sigmoid(h)
        assert torch.allclose(forward(net, x, last=True)[m], h @ net[1][0][m] + net[1][1][m], atol=1e-6)


def test_wiring_keeps_the_output_last():
    cells = [
        Cell.parse("|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|none~1|skip_connect~2|"),
        Cell(("input", "output"), ((0, 1), (0, 0))),
    ]
    wiring = Wiring.of(cells)
    found = wiring(cells)
    assert wiring.kinds == ("conv1x1", "conv3x3") and wiring.nodes == 4 and found.shape == (2, 4 * 2 + 16)
    edges = found[:, 8:].reshape(2, 4, 4)
    assert edges[0].sum() == 4 and edges[1].sum() == 1 == edges[1, 0, 3]
    assert found[0, :8].reshape(4, 2)[1:3].tolist() == [[0, 1], [1, 0]]
    assert Wiring(3, wiring.kinds)(cells)[0, 6:].reshape(3, 3)[0, 1] == 1


def test_pre_training_learns_what_is_free_and_helps(pool):
    whole, y = pool
    taus = {0: [], 250: []}
    for seed in range(2):
        train, test = np.split(np.random.default_rng(seed).permutation(600), [40])
        for steps, found in taus.items():
            ready = FBNetV3(pretraining=steps, width=48, inputs=("words",), frozen=60, steps=60, members=2)
            ready = ready.pretrain(whole, np.random.default_rng(seed))
            assert ready.encoder.left < 0.3 if steps else ready.encoder.left > 0.6
            learned = ready.learn(whole[train], normal_scores(y[train]), np.random.default_rng(seed))
            found.append(tau(learned(whole[test])[0], y[test]))
    assert np.mean(taus[250]) > np.mean(taus[0]) + 0.02 and np.mean(taus[250]) > 0.6


def test_recipes_stand_beside_the_architecture(pool):
    whole, y = pool
    rng = np.random.default_rng(1)
    recipe = rng.normal(size=(600, 2))
    both = whole | Features({"recipe": recipe}, {"recipe": ("rate", "epochs")})
    z = normal_scores(y + 0.5 * recipe[:, 0])
    ready = SMALL.pretrain(both, rng)
    assert ready.encoder.beside == ("recipe",) and "recipe" not in ready.encoder.blocks
    train, test = np.arange(120), np.arange(120, 600)
    found = {}
    for name, x in {"with": both, "without": whole}.items():
        learned = SMALL.pretrain(x, np.random.default_rng(2)).learn(x[train], z[train], np.random.default_rng(3))
        found[name] = tau(learned(x[test])[0], z[test])
    assert found["with"] > found["without"] + 0.05


def test_several_metrics_at_once(pool):
    whole, y = pool
    rng = np.random.default_rng(4)
    train, test = np.arange(100), np.arange(100, 600)
    speed = -whole.blocks["graph"][:, whole.names["graph"].index("parameters")]
    fitted = SMALL.pretrain(whole, rng).fit_many(whole[train], {"accuracy": y[train], "speed": speed[train]}, rng)
    assert set(fitted) == {"accuracy", "speed"}
    for name, truth in (("accuracy", y), ("speed", speed)):
        found = fitted[name].predict(whole[test])
        assert tau(found.mean, truth[test]) > 0.6 and fitted[name].tau > 0.5
        assert 0.75 < ((found.low <= truth[test]) & (truth[test] <= found.high)).mean() <= 1
    with pytest.raises(NetwrightError, match="no metric"):
        SMALL.fit_many(whole, {}, rng)
    with pytest.raises(NetwrightError, match="finite labels"):
        SMALL.fit_many(whole[train], {"a": y[train], "b": np.ones(100)}, rng)


def test_claims_without_data_say_so(tmp_path, monkeypatch):
    monkeypatch.delenv("NETWRIGHT_DATA", raising=False)
    stages = Encoders(Cells(tmp_path)).stages()
    assert [id for _, ids in stages.values() for id in ids] == list(BOUNDS)
    for measure, _ in stages.values():
        with pytest.raises(DataError, match="NETWRIGHT_DATA"):
            list(measure())
