"""MixtureGrowth: nothing is lost on the way, and what was learned is where the large network starts."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.utils import parametrize

from netwright.compress.grow import CATALOGUE, Growth, MixtureGrowth
from netwright.compress.grow.mixture_growth import mixed_layers
from netwright.core.errors import NetwrightError
from netwright.design.models.staged import Stage, Staged
from netwright.design.trace import trace
from netwright.train import Recipe, Tensors, accuracy, fit

RECIPE = Recipe(steps=80, batch_size=64, evaluations=1)


def net(width: int, classes: int = 10) -> nn.Module:
    stages = Stage("convnext", 1, width, 3, 2), Stage("convnext", 1, 2 * width, 3, 2)
    return Staged(stages, channels=1, classes=classes).build()


@pytest.fixture(scope="module")
def digits() -> Tensors:
    bunch = load_digits()
    x, y = torch.tensor(bunch.images).float()[:, None] / 16, torch.tensor(bunch.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return Tensors(x[:900], y[:900], x[900:1500], y[900:1500])


@pytest.fixture(scope="module")
def seeds(digits) -> list[nn.Module]:
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(fit(MixtureGrowth().prepare(net(8)), digits, RECIPE.with_(seed=seed)).module)
    return found


def test_it_is_listed():
    assert CATALOGUE["mixture_growth"] is MixtureGrowth and issubclass(MixtureGrowth, Growth)
    assert MixtureGrowth.paper.id == "S213"


def test_a_prepared_network_computes_what_it_did_and_every_template_and_coefficient_learns():
    module, x = net(8).eval(), torch.randn(4, 1, 8, 8)
    prepared = MixtureGrowth(templates=3).prepare(module)
    assert torch.allclose(prepared(x), module(x), atol=1e-5)
    assert not any(parametrize.is_parametrized(m) for m in module.modules())
    prepared(x).sum().backward()
    layers = [layer for _, layer in mixed_layers(prepared)]
    assert len(layers) == 9
    for layer in layers:
        held = layer.parametrizations.weight
        assert held.original.shape == (3, *layer.weight.shape) and held[0].coefficients.shape == (1, 3)
        assert held.original.grad.abs().sum() > 0 and held[0].coefficients.grad.abs().sum() > 0
        unlike = nn.functional.cosine_similarity(held.original[0].flatten(), held.original[1].flatten(), 0)
        assert abs(unlike.item()) < 0.95


def test_grown_without_mixing_it_is_the_mean_of_the_small_networks(seeds, digits):
    grown = MixtureGrowth(mixing=0.0).grow(*seeds, net(16)).eval()
    x = digits.x_validation
    with torch.no_grad():
        assert torch.allclose(grown(x), (seeds[0](x) + seeds[1](x)) / 2, atol=1e-4)
    plain = trace(MixtureGrowth().finish(grown), x[:1])
    assert plain.macs == trace(net(16), x[:1]).macs and plain.parameters == trace(net(16), x[:1]).parameters


def test_new_mixtures_are_small_and_at_right_angles_to_the_learned_ones(seeds):
    grown = MixtureGrowth(mixing=0.1).grow(*seeds, net(16))
    whole = [
        layer.parametrizations.weight[0] for _, layer in mixed_layers(grown) if layer.parametrizations.weight[0].grid == (2, 2)
    ]
    assert len(whole) == 5  # pointwise layers and the one between the stages
    for mixture in whole:
        rows = mixture.coefficients.detach()
        gram = rows @ rows.T
        assert torch.allclose(gram - gram.diag().diag(), torch.zeros(4, 4), atol=1e-6)
        assert gram[1, 1].sqrt() == pytest.approx(0.1 * (rows[0].norm() + rows[3].norm()).item() / 2, rel=1e-4)


def test_the_grown_network_starts_where_the_small_ones_are_and_trains_faster_than_scratch(seeds, digits):
    alone = [accuracy(s, digits.validation) for s in seeds]
    grown = MixtureGrowth().grow(*seeds, net(16))
    start = accuracy(grown, digits.validation)
    assert start > min(alone) - 0.01 and start > 0.85
    short = RECIPE.with_(steps=20, warmup=0.0)
    torch.manual_seed(2)
    scratch = fit(net(16), digits, short)
    fitted = fit(grown, digits, short)
    assert fitted.best_accuracy > max(alone)
    assert fitted.best_accuracy > scratch.best_accuracy + 0.2
    assert fitted.history[-1].loss < 0.6 * scratch.history[-1].loss


def test_finishing_leaves_plain_layers_and_the_grown_network_as_it_was(seeds, digits):
    grown = MixtureGrowth().grow(*seeds, net(16)).eval()
    plain, x = MixtureGrowth().finish(grown), digits.x_validation[:8]
    assert torch.equal(plain(x), grown(x))
    assert plain.state_dict().keys() == net(16).state_dict().keys()
    assert type(plain.stem.conv) is nn.Conv2d


def test_wrong_networks_are_named(seeds):
    growth = MixtureGrowth()
    with pytest.raises(NetwrightError, match="every size must stay or double"):
        growth.grow(*seeds, net(24))
    with pytest.raises(NetwrightError, match="what `prepare` made"):
        growth.grow(net(8), net(8), net(16))
    with pytest.raises(NetwrightError, match="differ in"):
        growth.grow(*seeds, nn.Sequential(nn.Linear(4, 4)))
    with pytest.raises(NetwrightError, match="already"):
        growth.prepare(seeds[0])
    with pytest.raises(NetwrightError, match="no convolution"):
        growth.prepare(nn.Sequential(nn.ReLU()))
    with pytest.raises(NetwrightError, match="at least 2 templates"):
        MixtureGrowth(templates=1)
