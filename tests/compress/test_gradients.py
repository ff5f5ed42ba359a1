"""Equation = gradient = test: every estimator on a grid."""

from __future__ import annotations

import pytest
import torch

from netwright.compress.binarise.biper import ApproxSign, NormalisedSign, biper
from netwright.compress.coded import signs
from netwright.compress.ternarise.bitnet import gamma, ternary
from netwright.compress.trainee import fake_quantise, round_ste

GRID = torch.linspace(-2, 2, 401, dtype=torch.float64)


def gradient(function, x):
    x = x.clone().requires_grad_()
    y = function(x)
    (g,) = torch.autograd.grad(y, x, torch.full_like(y, 3.0))
    return y.detach(), g / 3.0


def test_sign_of_zero_is_plus_one():
    zero = torch.tensor([0.0, -0.0, -1e-30, 1e-30])
    expected = torch.tensor([1.0, 1.0, -1.0, 1.0])
    assert torch.equal(signs(zero), expected)
    assert torch.equal(ApproxSign.apply(zero), expected)
    assert torch.equal(biper(torch.zeros(3), 20.0, 2), torch.ones(3))
    assert torch.equal(NormalisedSign.apply(torch.zeros(2, 3)), torch.ones(2, 3))


def test_approx_sign():
    y, g = gradient(ApproxSign.apply, GRID)
    assert torch.equal(y, torch.where(GRID >= 0, 1.0, -1.0).double())
    assert torch.allclose(g, (2 - 2 * GRID.abs()).clamp(min=0))


def test_normalised_sign_is_approx_sign_of_the_normalised_activation():
    generator = torch.Generator().manual_seed(0)
    x, g = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64, generator=generator)
    x = (x + 0.3).requires_grad_()
    plain = ApproxSign.apply(x / torch.sqrt(x.var((1, 2, 3), keepdim=True) + 1e-5))
    fused = NormalisedSign.apply(x)
    assert torch.equal(plain, fused)
    assert torch.allclose(*(torch.autograd.grad(y, x, g)[0] for y in (plain, fused)), atol=1e-12)


@pytest.mark.parametrize("stage", [1, 2])
def test_biper(stage):
    y, g = gradient(lambda w: biper(w, 20.0, stage), GRID)
    wave = torch.sin(20 * GRID)
    assert torch.equal(y, wave if stage == 1 else torch.where(wave >= 0, 1.0, -1.0).double())
    assert torch.allclose(g, 20 * torch.cos(20 * GRID))


def test_ternary():
    y, g = gradient(lambda w: ternary(w, torch.tensor(0.5)) * 0.5, GRID)
    assert torch.allclose(y, torch.round((GRID / 0.5).clamp(-1, 1)) * 0.5)
    assert torch.allclose(g, torch.ones_like(GRID)), "the gradient is the identity, beyond the clamp too"


def test_gamma_is_the_median_or_the_mean_and_never_zero():
    w = torch.tensor([-1.0, 2.0, 3.0, -4.0, 15.0])
    assert gamma(w, "median", 1e-5) == 3 and gamma(w, "mean", 1e-5) == 5
    assert gamma(torch.tensor([0.0, 0.0, 0.0, 8.0]), "median", 1e-5) == 2
    assert gamma(torch.zeros(4), "median", 1e-5) == pytest.approx(1e-5)


def test_rounding():
    y, g = gradient(round_ste, GRID)
    assert torch.equal(y, torch.round(GRID)) and torch.equal(g, torch.ones_like(g))
    scale = torch.tensor(0.01, dtype=torch.float64)
    y, g = gradient(lambda x: fake_quantise(x, scale, -127, 127), GRID)
    assert torch.allclose(y, torch.round(GRID / 0.01).clamp(-127, 127) * 0.01)
    assert torch.equal(g, (GRID.abs() < 1.2749).double())
