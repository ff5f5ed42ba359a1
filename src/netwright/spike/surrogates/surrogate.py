"""Surrogate: the role of everything in this folder.

forward   s = H(x),  H(0) = 1          x = membrane potential less threshold
backward  dL/dx = slope(x) dL/ds       slope: what each file states
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from netwright.core.paper import Paper


class Curves(NamedTuple):
    """Forward and backward of a surrogate over a grid, each [points]; what a plot of it needs."""

    x: Tensor
    spike: Tensor
    derivative: Tensor


class Spike(torch.autograd.Function):
    """H(x), with the surrogate's slope in place of the derivative."""

    @staticmethod
    def forward(x: Tensor, surrogate: Surrogate) -> Tensor:
        return (x >= 0) * x.new_ones(())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Surrogate], output: Tensor) -> None:
        x, ctx.surrogate = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,), (grad,) = ctx.saved_tensors, grads
        return ctx.surrogate.slope(x) * grad, None


@dataclass(frozen=True)
class Surrogate:
    """A spike function that can be trained through; called like a function."""

    name: ClassVar[str]
    paper: ClassVar[Paper]

    def slope(self, x: Tensor) -> Tensor:
        """What gradients through the spike are multiplied by at `x`, elementwise."""
        raise NotImplementedError

    def __call__(self, x: Tensor) -> Tensor:
        """Spikes (0, 1) shaped and typed like `x`, the potential above the threshold."""
        if not (torch.is_grad_enabled() and x.requires_grad):
            return (x >= 0) * x.new_ones(())
        spikes: Tensor = Spike.apply(x, self)
        return spikes

    def curves(self, low: float = -2.0, high: float = 2.0, points: int = 401) -> Curves:
        """Spike and slope over [low, high], in float64."""
        x = torch.linspace(low, high, points, dtype=torch.float64)
        return Curves(x, (x >= 0).to(x.dtype), self.slope(x))
