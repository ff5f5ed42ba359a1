"""The gradient of every estimator against the derivative that its method states, by autograd of that formula in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from netwright.compress.binarise import fda, irnet, reste
from netwright.compress.binarise.biper import biper
from netwright.compress.binarise.estimators import ApproxSign, ClippedSign, NormalisedSign, ShapedSign, SignThrough
from netwright.compress.quantise.lsq import LearnedStep
from netwright.compress.ternarise.bitnet import ternary
from netwright.compress.trainee import fake_quantise

Function = Callable[[Tensor], Tensor]
GRID = torch.linspace(-2, 2, 401, dtype=torch.float64) + 1e-4  # off the corners, where a derivative has two values


def slope_of(f: Function, x: Tensor) -> Tensor:
    """df/dx, elementwise."""
    x = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(f(x).sum(), x)
    return g


def pairs() -> dict[str, tuple[Function, Function]]:
    """Estimator -> (what the code computes, the function whose derivative its gradient is said to be)."""

    def shaped(slope: Function) -> Function:
        return lambda v: ShapedSign.apply(v, slope(v.detach()))

    def series(v: Tensor) -> Tensor:
        terms = [torch.sin((2 * i + 1) * 0.1 * v) / (2 * i + 1) for i in range(10)]
        return torch.where(v.abs() <= 1, 4 / math.pi * torch.stack(terms).sum(0), 0.0)

    def power(o: float) -> Function:
        def f(v: Tensor) -> Tensor:
            inner = torch.where(v.abs() <= 0.1, v * 0.1 ** (1 / o) / 0.1, torch.sign(v) * v.abs() ** (1 / o))
            return torch.where(v.abs() <= 1.5, inner, 0.0)

        return f

    def quadratic(v: Tensor) -> Tensor:
        return torch.where(v.abs() <= 1, torch.where(v < 0, 2 * v + v * v, 2 * v - v * v), torch.sign(v).detach())

    found: dict[str, tuple[Function, Function]] = {
        "clipped sign": (ClippedSign.apply, lambda v: v.clamp(-1, 1)),
        "sign through": (SignThrough.apply, lambda v: v),
        "approx sign": (ApproxSign.apply, quadratic),
        "normalised sign": (
            lambda v: NormalisedSign.apply(v[None])[0],
            lambda v: quadratic(v / torch.sqrt(v.var() + 1e-5)),
        ),
        "biper, stage 1": (lambda w: biper(w, 20.0, 1), lambda w: torch.sin(20 * w)),
        "biper, stage 2": (lambda w: biper(w, 20.0, 2), lambda w: torch.sin(20 * w)),
        "fda": (shaped(lambda v: fda.slope(v, 0.1, 9)), series),
        "bitnet": (lambda w: ternary(w, torch.tensor(0.5)) * 0.5, lambda w: w),
        "lsq, weights": (
            lambda w: LearnedStep.apply(w, torch.tensor(0.25, dtype=torch.float64), 7, 7),
            lambda w: w.clamp(-1.75, 1.75),
        ),
        "rounding to a range": (
            lambda v: fake_quantise(v, torch.tensor(0.1, dtype=torch.float64), -8, 7), lambda v: v.clamp(-0.85, 0.75)
        ),
    }  # fmt: skip
    for o in (1.0, 1.7, 3.0):
        found[f"reste, o = {o}"] = (shaped(lambda v, o=o: reste.slope(v, o, 0.1, 1.5)), power(o))  # type: ignore[misc]
    for progress in (0.0, 0.5, 1.0):
        t = irnet.sharpness(progress, 1e-3, 10.0)
        found[f"irnet, t = {t:g}"] = (
            shaped(lambda v, t=t: irnet.slope(v, t)), lambda v, t=t: max(1 / t, 1) * torch.tanh(t * v),  # type: ignore[misc]
        )  # fmt: skip
    return found


def largest_gradient_error() -> tuple[float, str, int]:
    """The largest difference over all estimators and points of the grid, the estimator that has it, and how many values."""
    errors = {name: float((slope_of(f, GRID) - slope_of(g, GRID)).abs().max()) for name, (f, g) in pairs().items()}
    worst = max(errors, key=lambda name: errors[name])
    return errors[worst], worst, len(errors) * len(GRID)
