"""Random search: masks are compared on the same batches before any training, and the best one is trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.compress.prune import RandomSearch, RandomTicket
from netwright.compress.prune.random_search import Candidates
from netwright.core.errors import NetwrightError, UnknownName
from netwright.design.trace import trace
from netwright.testing.compress import ExampleNet, check_states, few_steps


def small() -> nn.Module:
    """An untrained network."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10),
        )  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(y)


def batch(digits, count: int = 64) -> tuple[Tensor, Tensor]:
    return digits[0][:count], digits[1][:count]


def state(net: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in net.state_dict().items()}


UNITS = pytest.mark.parametrize("units", ["nodes", "weights"])


@UNITS
def test_the_search_trains_nothing_and_scores_every_mask_by_what_it_misses(digits, units):
    x, y = batch(digits)
    method = RandomSearch(units=units, candidates=5)
    trainee = method.begin(method.prepare(small(), x[:1], x), method.stages[0])
    assert isinstance(trainee, Candidates) and trainee.last
    before = state(trainee)
    optimiser = torch.optim.AdamW(trainee.parameters(), 1e-2, weight_decay=0.1)
    trainee.train()
    for places in (slice(0, 32), slice(32, 64)):
        F.cross_entropy(trainee(x[places]), y[places]).backward()
        optimiser.step()
    after = state(trainee)
    assert all(torch.equal(v, after[k]) for k, v in before.items() if v.is_floating_point())
    assert all(p.grad is None for p in trainee.parameters()) and int(trainee.seen) == 2
    expected = []
    trainee.searching.fill_(False)
    for i in range(5):
        trainee.take(i)
        with torch.no_grad():
            missed = [1 - trainee(x[p]).softmax(1)[torch.arange(32), y[p]].mean() for p in (slice(0, 32), slice(32, 64))]
        expected.append(float(sum(missed) / 2))
    assert trainee.scores.tolist() == pytest.approx(expected, abs=1e-6)
    assert trainee.best == int(np.argmin(expected)) and len(set(expected)) == 5


def test_targets_may_be_smoothed(digits):
    x, y = batch(digits, 32)
    method = RandomSearch(candidates=3)
    trainee = method.begin(method.prepare(small(), x[:1], x), method.stages[0]).train()
    F.cross_entropy(trainee(x), y, label_smoothing=0.1).backward()
    targets = torch.full((32, 10), 0.01).scatter(1, y[:, None], 0.91)
    found, trainee_scores = [], trainee.scores.tolist()
    trainee.searching.fill_(False)
    for i in range(3):
        trainee.take(i)
        with torch.no_grad():
            found.append(float((trainee(x).softmax(1) - targets).abs().sum(1).mean() / 2))
    assert trainee_scores == pytest.approx(found, abs=1e-6)


@UNITS
def test_the_best_mask_is_kept_through_training(digits, units):
    x, y = batch(digits)
    method = RandomSearch(target=0.6, units=units, candidates=4)
    trainee = method.prepare(small(), x[:1], x)
    search, train = method.stages
    few_steps(method.begin(trainee, search), x, y, 2)
    best = trainee.best
    method.begin(trainee, train)
    masks = {k: trainee.mask(k).clone() for k in trainee.masked}
    trainee.take(best)
    assert all(torch.equal(trainee.mask(k), m) for k, m in masks.items())
    few_steps(trainee, x, y, 3, 1e-2)
    assert all(torch.equal(trainee.mask(k), m) for k, m in masks.items()) and trainee.best == best
    network = method.finish(trainee, x)
    with torch.no_grad():
        torch.testing.assert_close(network(x), trainee(x), rtol=1e-4, atol=1e-5)
    whole = trace(small(), x[:1])
    if units == "nodes":
        assert network.graph.macs <= 0.4 * whole.macs and network.graph.parameters < whole.parameters
    else:
        weights = [v for k, v in network.graph.values.items() if v.ndim > 1]
        zeros = sum((w == 0).sum() for w in weights) / sum(w.size for w in weights)
        assert zeros == pytest.approx(0.6, abs=0.01) and network.graph.macs == whole.macs


def test_one_candidate_of_weights_is_a_random_ticket(digits):
    x, y = batch(digits)

    def fit(trainee: nn.Module, stage: str, **_: object) -> nn.Module:
        return few_steps(trainee, x, y)

    one = RandomSearch(0.8, "weights", candidates=1).compress(small(), x[:1], x, fit)
    ticket = RandomTicket(0.8).compress(small(), x[:1], x, fit)
    with torch.no_grad():
        assert torch.equal(one(x), ticket(x))


def test_the_search_goes_on_from_its_state_and_repeats(digits):
    x, y = batch(digits)
    method = RandomSearch(candidates=3)
    first, second = (method.begin(method.prepare(small(), x[:1], x), method.stages[0]) for _ in range(2))
    few_steps(first, x[:32], y[:32], 1)
    second.load_state_dict(first.state_dict())
    for trainee in (first, second):
        few_steps(trainee, x[32:], y[32:], 1)
    assert torch.equal(first.scores, second.scores) and int(first.seen) == 2
    assert RandomSearch(seed=1).prepare(small(), x[:1], x).chosen != RandomSearch().prepare(small(), x[:1], x).chosen


def test_it_learns_digits_with_half_of_the_work(digits, tmp_path):
    x, y = digits

    def fit(trainee: nn.Module, share: float, lr: float, **_: object) -> nn.Module:
        generator = torch.Generator().manual_seed(0)
        optimiser = torch.optim.Adam(trainee.parameters(), 2 * lr)
        trainee.train()
        for _ in range(round(120 * share)):
            i = torch.randint(0, 1300, (64,), generator=generator)
            optimiser.zero_grad()
            F.cross_entropy(trainee(x[i]), y[i]).backward()
            optimiser.step()
        return trainee.eval()

    network = RandomSearch(target=0.5).compress(small(), x[:1], x[:64], fit)
    assert network.graph.macs <= 0.5 * trace(small(), x[:1]).macs
    with torch.no_grad():
        assert float((network(x[1300:]).argmax(1) == y[1300:]).float().mean()) > 0.65
        check_states(network, x[:8], tmp_path)


@UNITS
def test_other_networks(units):
    x, y = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 10

    def fit(trainee: nn.Module, stage: str, **_: object) -> nn.Module:
        return few_steps(trainee, x, y, 2)

    with torch.no_grad():
        before = state(net := ExampleNet())
    network = RandomSearch(0.3, units, candidates=2).compress(net, x[:1], x, fit)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    with torch.no_grad():
        assert network(x).shape == (16, 10)


def test_what_cannot_be_is_refused(digits):
    x = digits[0][:4]
    with pytest.raises(NetwrightError, match="at least one"):
        RandomSearch(candidates=0)
    with pytest.raises(NetwrightError, match="target = 1"):
        RandomSearch(target=1.0)
    with pytest.raises(UnknownName, match="nodes"):
        RandomSearch(units="node")
    with pytest.raises(UnknownName, match="erk"):
        RandomSearch(ratios="erdos")
    with pytest.raises(NetwrightError, match="were to be removed"):
        RandomSearch(target=0.999).prepare(small(), x[:1], x)
    assert sum(s.share for s in RandomSearch().stages) == pytest.approx(1)
