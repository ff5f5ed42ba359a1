"""Recipe, schedule, weight decay, evaluation and distillation, as numbers."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from netwright.core.errors import DataError, RecipeError
from netwright.train import Recipe, Tensors, accuracy, reestimate
from netwright.train.distil import CATALOGUE, KnowledgeDistillation
from netwright.train.ema import MovingAverage
from netwright.train.optimisers import OPTIMISERS, optimiser
from netwright.train.schedules import learning_rate


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"lr": 0}, r"train.lr = 0 must lie in \(0"),
        ({"steps": 0}, "train.steps"),
        ({"ema": 1.0}, r"train.ema = 1.0 must lie in \[0, 1\)"),
        ({"optimiser": "adm"}, "adamw, adam, sgd"),
        ({"schedule": "step"}, "cosine"),
        ({"lr": float("nan")}, "train.lr"),
        ({"betas": (0.9, 1.0)}, "train.betas"),
        ({"learning_rat": 1.0}, "train.learning_rat is not a key"),
        ({"batchsize": 3}, "Did you mean batch_size"),
    ],
)
def test_a_bad_recipe_names_its_key(values, words):
    with pytest.raises(RecipeError, match=words):
        Recipe.from_mapping(values)


def test_a_recipe_is_json_both_ways():
    recipe = Recipe(steps=7, augment=("shift",), betas=(0.8, 0.9))
    assert Recipe.from_mapping(recipe.to_json()) == recipe


def test_schedules():
    rates = [learning_rate(Recipe(steps=100, lr=1.0, warmup=0.1), s) for s in range(100)]
    assert rates[:10] == pytest.approx([(s + 1) / 11 for s in range(10)])
    assert max(rates) == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert all(a > b for a, b in pairwise(rates[10:]))
    linear = Recipe(steps=10, lr=2.0, warmup=0, schedule="linear")
    assert [learning_rate(linear, s) for s in (0, 5)] == [2.0, 1.0]
    assert learning_rate(Recipe(steps=10, lr=2.0, warmup=0, schedule="constant"), 9) == 2.0


@pytest.mark.parametrize("name", sorted(OPTIMISERS))
def test_weight_decay_spares_vectors(name):
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1, groups=4), nn.Flatten(), nn.Linear(4, 1))
    module.register_parameter("scale", nn.Parameter(torch.ones(4, 1, 1)))
    with_decay, without = optimiser(module.named_parameters(), Recipe(optimiser=name, weight_decay=0.1)).param_groups
    assert [g["weight_decay"] for g in (with_decay, without)] == [0.1, 0.0]
    assert {id(p) for p in with_decay["params"]} == {id(module[i].weight) for i in (0, 2, 4)}
    assert len(without["params"]) == 6


def test_moving_average_follows_its_equation():
    weights = {"w": torch.zeros(2), "n": torch.zeros((), dtype=torch.int64)}
    ema = MovingAverage(weights, 0.5)
    expected = 0.0
    for step in range(20):
        weights["w"] += 1
        weights["n"] += 1
        ema.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step + 1)
    assert ema.average["w"].tolist() == pytest.approx([expected] * 2)
    assert ema.average["n"] == 20


def test_accuracy_takes_tensors_or_batches_and_restores_modes():
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Identity())
    module[1].eval()
    x, y = torch.eye(3).repeat(4, 1), torch.arange(3).repeat(4)
    y[0] = 1
    assert accuracy(module, (x, y), batch_size=5) == accuracy(module, [(x[:7], y[:7]), (x[7:], y[7:])]) == 11 / 12
    assert module[0].training
    assert not module[1].training
    with pytest.raises(DataError, match="empty"):
        accuracy(module, [])


def test_reestimate_gives_the_plain_mean_of_batch_statistics():
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, momentum=0.3), nn.Dropout(0.5))
    batches = [torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    module[1].running_mean.fill_(9)
    reestimate(module, [(b, torch.zeros(8)) for b in batches])
    with torch.no_grad():
        outs = [module[0](b) for b in batches]
    assert torch.allclose(module[1].running_mean, torch.stack([o.mean((0, 2, 3)) for o in outs]).mean(0), atol=1e-6)
    assert torch.allclose(module[1].running_var, torch.stack([o.var((0, 2, 3)) for o in outs]).mean(0), atol=1e-6)
    assert module[1].momentum == 0.3
    assert module.training
    assert module[0].weight.grad is None
    with pytest.raises(DataError, match="without data"):
        reestimate(module, [])


def test_distillation_meets_its_equation():
    g = torch.Generator().manual_seed(0)
    s, t = torch.randn(5, 4, generator=g, requires_grad=True), torch.randn(5, 4, generator=g, requires_grad=True)
    y = torch.tensor([0, 1, 2, 3, 0])
    hard = F.cross_entropy(s, y)
    p, q = (t / 3).softmax(1), (s / 3).softmax(1)
    expected = 0.3 * hard + 0.7 * 9 * (p * (p / q).log()).sum(1).mean()
    loss = KnowledgeDistillation(0.7, 3.0)(s, t, hard)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert t.grad is None
    # soft part alone: d/ds = T (q - p) / N
    hard = hard.detach()
    (gradient,) = torch.autograd.grad(KnowledgeDistillation(1.0, 3.0)(s, t, hard), s)
    assert torch.allclose(gradient, 3 * (q - p).detach() / 5, atol=1e-6)


def test_the_methods_have_papers():
    assert "kd" in CATALOGUE and len(CATALOGUE) >= 4
    assert all(m.paper.year for m in CATALOGUE.values())


def test_batches_are_a_permutation_and_depend_on_the_generator():
    x = torch.arange(10).float().reshape(10, 1)
    data = Tensors(x, torch.arange(10), x, torch.arange(10))
    first = [y.tolist() for _, y in data.batches(4, torch.Generator().manual_seed(1))]
    assert [len(b) for b in first] == [4, 4]
    assert len({i for b in first for i in b}) == 8
    assert first == [y.tolist() for _, y in data.batches(4, torch.Generator().manual_seed(1))]
    assert first != [y.tolist() for _, y in data.batches(4, torch.Generator().manual_seed(2))]
    assert [len(y) for _, y in data.batches(64, torch.Generator())] == [10]
    with pytest.raises(DataError, match="3 inputs and 2 labels"):
        Tensors(x[:3], torch.arange(2), x, torch.arange(10))
