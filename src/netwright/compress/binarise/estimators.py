"""Signs with the gradients that several methods use; sign(0) = +1."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from netwright.compress.coded import signs


class ApproxSign(torch.autograd.Function):
    """sign(a), sign(0) = +1; gradient ``g * max(0, 2 - 2|a|)``."""

    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        ctx.save_for_backward(a)
        return signs(a)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (a,) = ctx.saved_tensors
        return g * (2 - 2 * a.abs()).clamp_(min=0)


class NormalisedSign(torch.autograd.Function):
    """``ApproxSign(a / s)``, s the standard deviation of each sample: s**2 = var(a) + 1e-5 (n-1 degrees of freedom).

    The forward value is sign(a), whatever s. With h = g * max(0, 2 - 2|a/s|) the gradient, through s too, is
    ``h/s - (a - mean(a)) * sum(h*a) / ((n-1) * s**3)``. One function, because autograd would take four times the passes.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        flat = a.flatten(1)
        n = flat.shape[1]
        mean = flat.mean(1)
        var = (torch.linalg.vector_norm(flat, dim=1) ** 2 - n * mean**2).clamp_(min=0) / max(1, n - 1)
        ctx.save_for_backward(a, mean, torch.rsqrt(var + 1e-5))
        return signs(a)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        a, mean, r = ctx.saved_tensors
        shape, n = (-1, *[1] * (a.dim() - 1)), a[0].numel()
        h = (a.abs() * (-2 * r).view(shape)).add_(2).clamp_(min=0).mul_(g)
        pull = (h * a).flatten(1).sum(1) * r**3 / max(1, n - 1)
        return h.mul_(r.view(shape)).sub_(a * pull.view(shape)).add_((mean * pull).view(shape))


class SignThrough(torch.autograd.Function):
    """sign(v), sign(0) = +1; gradient ``g``."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        return signs(v)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


class ClippedSign(torch.autograd.Function):
    """sign(v); gradient ``g * [|v| <= 1]``."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        ctx.save_for_backward(v)
        return signs(v)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (v,) = ctx.saved_tensors
        return g * (v.abs() <= 1)


class ShapedSign(torch.autograd.Function):
    """sign(v); gradient ``g * slope``, where `slope` is what the method's estimator has at v."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return signs(v)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (slope,) = ctx.saved_tensors
        return g * slope, None
