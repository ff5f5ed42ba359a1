"""Equation = gradient = test: every estimator on a grid."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from netwright.compress import STE, XNOR, BiPer, IRNet, ReSTE
from netwright.compress.binarise import fda, irnet, recu, reste
from netwright.compress.binarise.biper import biper, quantisation_error
from netwright.compress.binarise.estimators import ApproxSign, ClippedSign, NormalisedSign, ShapedSign, SignThrough
from netwright.compress.coded import signs
from netwright.compress.ternarise import lsq, tbt, twn
from netwright.compress.ternarise.bitnet import gamma, ternary
from netwright.compress.trainee import fake_quantise, round_ste
from netwright.design import trace

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


SIGN = torch.where(GRID >= 0, 1.0, -1.0).double()


def test_clipped_and_straight_signs():
    for estimator, expected in ((ClippedSign, (GRID.abs() <= 1).double()), (SignThrough, torch.ones_like(GRID))):
        y, g = gradient(estimator.apply, GRID)
        assert torch.equal(y, SIGN) and torch.equal(g, expected)


def test_fda_is_the_derivative_of_a_fourier_series():
    y, g = gradient(lambda v: ShapedSign.apply(v, fda.slope(v.detach(), 0.1, 9)), GRID)
    v = GRID.clone().requires_grad_()
    series = 4 / torch.pi * sum(torch.sin((2 * i + 1) * 0.1 * v) / (2 * i + 1) for i in range(10))
    (expected,) = torch.autograd.grad(series.sum(), v)
    assert torch.equal(y, SIGN) and torch.allclose(g, expected * (GRID.abs() <= 1))


@pytest.mark.parametrize("o", [1.0, 1.7, 3.0])
def test_reste_is_the_derivative_of_a_power_between_its_limits(o):
    y, g = gradient(lambda v: ShapedSign.apply(v, reste.slope(v.detach(), o, 0.1, 1.5)), GRID)
    v = GRID.clone().requires_grad_()
    (power,) = torch.autograd.grad((torch.sign(v) * v.abs() ** (1 / o)).sum(), v)
    size = GRID.abs()
    expected = torch.where(size <= 0.1, 0.1 ** (1 / o) / 0.1, power) * (size <= 1.5)
    assert torch.equal(y, SIGN) and torch.allclose(g, expected)


def test_reste_trades_error_for_stability():
    w = torch.randn(4096, generator=torch.Generator().manual_seed(0)) * 0.5
    errors = [reste.estimating_error(w, o) for o in (1.0, 2.0, 3.0)]
    unrest = [reste.gradient_instability(w, o, 0.1, 1.5) for o in (1.0, 2.0, 3.0)]
    assert errors == sorted(errors, reverse=True) and unrest == sorted(unrest)


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_irnet_is_the_derivative_of_a_scaled_tanh(progress):
    t = irnet.sharpness(progress, 1e-3, 10.0)
    assert t == pytest.approx({0.0: 1e-3, 0.5: 0.1, 1.0: 10.0}[progress])
    y, g = gradient(lambda v: ShapedSign.apply(v, irnet.slope(v.detach(), t)), GRID)
    v = GRID.clone().requires_grad_()
    (expected,) = torch.autograd.grad((max(1 / t, 1) * torch.tanh(t * v)).sum(), v)
    assert torch.equal(y, SIGN) and torch.allclose(g, expected)


def test_recu_clamps_at_a_quantile_of_the_laplace_distribution():
    assert recu.tau(0.0) == pytest.approx(0.85) and recu.tau(1.0) == pytest.approx(0.99)
    torch.manual_seed(0)
    w = torch.distributions.Laplace(0.3, 2.0).sample((2, 50_000))
    w2 = recu.revived(w, 0.9)
    clamped = (w2 == w2.max(1, keepdim=True).values) | (w2 == w2.min(1, keepdim=True).values)
    assert float(clamped.double().mean()) == pytest.approx(0.2, abs=0.01), "a tenth on either side"
    assert torch.equal(torch.sign(w2), torch.sign(w - w.mean(1, keepdim=True)))


def test_scales():
    """mean|w| of channel or layer, or the nearest power of two of standardised weights; XNOR's has a gradient."""
    torch.manual_seed(0)
    conv = next(n for n in trace(nn.Conv2d(3, 4, 3, bias=False), torch.zeros(1, 3, 5, 5)) if n.op == "conv2d")
    w = torch.randn(4, 3, 3, 3) * torch.tensor([0.1, 0.5, 1.0, 3.0]).reshape(-1, 1, 1, 1)
    sizes = w.abs().flatten(1).mean(1)
    layers = {m.name: m.layer(conv, w.numpy(), None) for m in (STE(), XNOR(), ReSTE(), IRNet())}
    assert torch.allclose(layers["ste"].scale, sizes) and not layers["ste"].scale.requires_grad
    assert torch.allclose(layers["xnor"].scale, sizes) and layers["xnor"].scale.requires_grad
    assert torch.allclose(layers["reste"].scale, w.abs().mean().expand(4))
    assert torch.equal(torch.log2(layers["irnet"].scale) % 1, torch.zeros(4))
    latent = layers["irnet"].latent().flatten(1)
    assert torch.allclose(latent.mean(1), torch.zeros(4), atol=1e-6) and torch.allclose(latent.std(1), torch.ones(4))


def test_ternary():
    y, g = gradient(lambda w: ternary(w, torch.tensor(0.5)) * 0.5, GRID)
    assert torch.allclose(y, torch.round((GRID / 0.5).clamp(-1, 1)) * 0.5)
    assert torch.allclose(g, torch.ones_like(GRID)), "the gradient is the identity, beyond the clamp too"


def test_gamma_is_the_median_or_the_mean_and_never_zero():
    w = torch.tensor([-1.0, 2.0, 3.0, -4.0, 15.0])
    assert gamma(w, "median", 1e-5) == 3 and gamma(w, "mean", 1e-5) == 5
    assert gamma(torch.tensor([0.0, 0.0, 0.0, 8.0]), "median", 1e-5) == 2
    assert gamma(torch.zeros(4), "median", 1e-5) == pytest.approx(1e-5)


def test_twn():
    w = torch.tensor([[1.0, -2.0, 0.1, -0.3], [0.0, 0.0, 0.0, 0.0]])
    value, scale = twn.ternary(w, 0.7)
    assert torch.allclose(scale, torch.tensor([1.5, 1e-8])), "the mean of the sizes above 0.7 of the mean size"
    assert torch.allclose(value[0], torch.tensor([1.5, -1.5, 0.0, 0.0]))
    _, g = gradient(lambda v: twn.ternary(v, 0.7)[0], GRID[None])
    assert torch.equal(g, torch.ones_like(g))


def test_tbt():
    y, g = gradient(lambda v: tbt.ternary(v)[0], GRID[None])
    s = 4 / 3 * GRID.abs().mean()
    assert torch.allclose(y[0], torch.round((GRID / s).clamp(-1, 1)) * s) and torch.equal(g, torch.ones_like(g))


def test_lsq():
    s = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    y, g = gradient(lambda v: lsq.LearnedStep.apply(v, s), GRID)
    assert torch.allclose(y, torch.round((GRID / 0.7).clamp(-1, 1)) * 0.7)
    assert torch.equal(g, (GRID.abs() / 0.7 <= 1).double())
    weights = torch.randn(401, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (found,) = torch.autograd.grad((lsq.LearnedStep.apply(GRID, s) * weights).sum(), s)
    v = GRID / 0.7
    expected = (weights * torch.where(v.abs() <= 1, torch.round(v) - v, torch.sign(v))).sum() / 401**0.5
    assert torch.allclose(found, expected)


def test_rounding():
    y, g = gradient(round_ste, GRID)
    assert torch.equal(y, torch.round(GRID)) and torch.equal(g, torch.ones_like(g))
    scale = torch.tensor(0.01, dtype=torch.float64)
    y, g = gradient(lambda x: fake_quantise(x, scale, -127, 127), GRID)
    assert torch.allclose(y, torch.round(GRID / 0.01).clamp(-127, 127) * 0.01)
    assert torch.equal(g, (GRID.abs() < 1.2749).double())


def test_biper_loses_a_tenth_of_a_half_where_normal_weights_lose_a_third():
    """With a large omega the phase is uniform: 1/2 - 4/pi^2; with a small one the sine is the weight itself."""
    w = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert quantisation_error(w, 20.0) == pytest.approx(0.5 - 4 / torch.pi**2, abs=2e-3)
    small = quantisation_error(w, 1e-3) / 1e-6
    assert small == pytest.approx(1 - 2 / torch.pi, abs=5e-3)


def test_indicators_are_recorded_for_the_methods_whose_papers_watch_something():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Hardtanh(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
    net.append(nn.Linear(4 * 16, 3))
    x = torch.randn(8, 1, 8, 8)
    found = {}
    for method in (ReSTE(), BiPer(), STE()):
        trainee = method.prepare(net.eval(), x[:1], x)
        trainee.follow(1.0)
        found[method.name] = trainee.indicators()
    assert set(found["reste"]) == {"estimating error", "gradient instability"} and found["ste"] == {}
    assert 0 < found["biper"]["quantisation error"] < 0.2
