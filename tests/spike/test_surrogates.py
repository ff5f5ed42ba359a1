"""Surrogate gradients: the contract, the stated derivative, and what their docstrings say of area and height."""

from __future__ import annotations

import pytest
import torch

from netwright.bench.spike.gradients import largest_surrogate_error, primitives
from netwright.spike import surrogates
from netwright.spike.surrogates import Damped, Exponential, FastSigmoid, MultiGaussian, Triangle
from netwright.testing.spike import check_surrogate


@pytest.mark.parametrize("name", surrogates.CATALOGUE)
def test_surrogate_contract(name):
    check_surrogate(surrogates.CATALOGUE[name]())


def test_every_gradient_is_its_stated_derivative():
    error, worst, count = largest_surrogate_error()
    assert error <= 1e-9, worst
    assert set(primitives()) == set(surrogates.CATALOGUE) and count >= 400 * len(surrogates.CATALOGUE)


AREAS = {
    "arctan": 1.0, "sigmoid": 1.0, "triangle": 1.0, "rectangle": 1.0, "multi-gaussian": 0.85, "damped": 0.3,
    "exponential": 0.4, "fast-sigmoid": 0.2,
}  # fmt: skip


@pytest.mark.parametrize("name", surrogates.CATALOGUE)
def test_area_under_the_slope(name):
    curves = surrogates.CATALOGUE[name]().curves(-400, 400, 800_001)
    assert float(torch.trapezoid(curves.derivative, curves.x)) == pytest.approx(AREAS[name], rel=3e-3)


def test_parameters_change_the_slope():
    zero, one = torch.zeros(1), torch.ones(1)
    assert float(Triangle(0.5).slope(zero)) == 2 and float(Triangle(0.5).slope(one)) == 0
    assert float(Damped(0.5).slope(zero)) == 0.5 and float(Exponential(2.0).slope(zero)) == 2
    assert float(FastSigmoid(1.0).slope(one)) == 0.25
    assert float(MultiGaussian().slope(3 * one)) < 0


def test_gradients_of_gradients_exist():
    x = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(surrogates.ARCTAN(x) * x, x, create_graph=True)
    (second,) = torch.autograd.grad(first, x)
    assert float(second) != 0
