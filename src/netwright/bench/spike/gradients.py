"""The gradient of every surrogate against the derivative that its file states, by autograd of that formula in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from netwright.bench.claim import Claim
from netwright.bench.gradients import GRID, slope_of
from netwright.spike import surrogates

Function = Callable[[Tensor], Tensor]
BOUNDS: dict[str, tuple[str, float]] = {"surrogate_gradient_max_error": ("<=", 1e-6)}


def primitives() -> dict[str, Function]:
    """Surrogate -> the function whose derivative its gradient is said to be, at the defaults of its file."""

    def triangle(x: Tensor) -> Tensor:
        inner = torch.where(x < 0, x + x * x / 2, x - x * x / 2)
        return torch.where(x.abs() < 1, inner, torch.sign(x).detach() / 2)

    def bells(x: Tensor) -> Tensor:
        middle, wide = torch.special.ndtr(x / 0.5), [torch.special.ndtr((x + m) / 3.0) for m in (-0.5, 0.5)]
        return 1.15 * middle - 0.15 * (wide[0] + wide[1])

    return {
        "arctan": lambda x: torch.arctan(math.pi * x) / math.pi,
        "sigmoid": lambda x: torch.sigmoid(4 * x),
        "fast-sigmoid": lambda x: x / (1 + 10 * x.abs()),
        "triangle": triangle,
        "damped": lambda x: 0.3 * triangle(x),
        "rectangle": lambda x: x.clamp(-0.5, 0.5),
        "multi-gaussian": bells,
        "exponential": lambda x: torch.sign(x) * (1 - torch.exp(-5 * x.abs())) / 5,
    }


def largest_surrogate_error() -> tuple[float, str, int]:
    """The largest difference over all surrogates and points of the grid, the surrogate that has it, and how many values."""
    errors = {
        name: float((slope_of(surrogates.CATALOGUE[name](), GRID) - slope_of(f, GRID)).abs().max())
        for name, f in primitives().items()
    }
    worst = max(errors, key=lambda name: errors[name])
    return errors[worst], worst, len(errors) * len(GRID)


def gradients() -> Iterator[Claim]:
    """One claim for all surrogates of the catalogue."""
    worst, name, count = largest_surrogate_error()
    unit = "largest difference from the stated derivative, float64"
    yield Claim("surrogate_gradient_max_error", worst, unit, "measured", count, None, {"name": name})
