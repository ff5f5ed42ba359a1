"""CaRe-BN: moving statistics that trust a batch as far as it deserves, and are taken anew now and then.

    d = mean_b - mean;    p <- m p + (1 - m) d^2;    K = p / (p + var_b/(N - 1));      mean <- mean + K d
    e = var_b - var;      q <- m q + (1 - m) e^2;    L = q / (q + 2 var_b^2/(N - 1));  var  <- var + L e

mean_b, var_b are those of a batch of N, over time, batch and space; p and q estimate how far the moving statistics are off,
the terms beside them how far the batch is: a Kalman gain (the "confidence-adaptive update"). Training uses the batch's own
statistics, inference the moving ones. `recalibrate` (Re-BN) replaces these by the exact ones of many batches. gamma and beta
start at theta/2, m = 0.8.

Differs from the authors' code: they fix N - 1 = 255, their batch of 256; here N is the batch that came. In `recalibrate`
each layer passes on what the batch's own statistics give, theirs what those gathered so far give.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.spike.norms.norm import Norm


class CaReBN(Norm):
    """`theta`: threshold of the neurons behind the norm; `momentum`: m above."""

    name: ClassVar[str] = "care-bn"
    paper: ClassVar[Paper] = Paper(
        "xu2026carebn", "CaRe-BN: Precise Moving Statistics for Stabilizing Spiking Neural Networks in Reinforcement Learning",
        "Xu, Zijie and Shi, Xinyu and Dong, Yiting and Huang, Zihan and Yu, Zhaofei", "ICLR", 2026,
        "https://arxiv.org/abs/2509.23791", "S240",
    )  # fmt: skip
    p: Tensor
    q: Tensor

    def __init__(self, channels: int, theta: float = 1.0, momentum: float = 0.8, eps: float = 1e-5):
        super().__init__(channels, eps)
        self.momentum = momentum
        with torch.no_grad():
            self.gamma.fill_(theta / 2)
            self.beta.fill_(theta / 2)
        self.register_buffer("p", torch.zeros(channels))
        self.register_buffer("q", torch.zeros(channels))
        self.seen: tuple[int, Tensor, Tensor] | None = None  # batches, mean and variance of a recalibration under way

    def gather(self, mean: Tensor, var: Tensor, images: int) -> None:
        if self.seen is not None:
            self.seen = merged(self.seen, mean, var)
            return
        for moving, found, error, doubt in (
            (self.mean, mean, self.p, var / max(images - 1, 1)),
            (self.var, var, self.q, 2 * var.square() / max(images - 1, 1)),
        ):
            d = found - moving
            error.lerp_(d.square(), 1 - self.momentum)
            moving.add_(error / (error + doubt).clamp(min=torch.finfo(d.dtype).tiny) * d)


def merged(seen: tuple[int, Tensor, Tensor], mean: Tensor, var: Tensor) -> tuple[int, Tensor, Tensor]:
    """(k + 1, mean, variance) of k batches and one more of the same size."""
    k, m, v = seen
    w = 1 / (k + 1)
    return k + 1, m + w * (mean - m), v + w * (var - v) + w * (1 - w) * (mean - m) ** 2


def recalibrate(module: nn.Module, batches: Iterable[Tensor]) -> None:
    """Re-BN: the moving statistics of every `CaReBN` in `module` become those of all `batches` (of one size) together.

    Args:
        module: called with each batch, in training mode without gradients; its mode is put back.
        batches: inputs; the paper takes 100 batches of the replay buffer.

    Raises:
        NetwrightError: no CaRe-BN in the module, or no batches.
    """
    norms = [m for m in module.modules() if isinstance(m, CaReBN)]
    modes = {m: m.training for m in module.modules()}
    for norm in norms:
        norm.seen = (0, torch.zeros_like(norm.mean), torch.zeros_like(norm.var))
    try:
        module.eval()
        for norm in norms:
            norm.train()
        with torch.no_grad():
            for x in batches:
                module(x)
        for norm in norms:
            if norm.seen is None or not norm.seen[0]:
                break
            _, mean, var = norm.seen
            norm.mean.copy_(mean)
            norm.var.copy_(var)
        else:
            if norms:
                return
    finally:
        for norm in norms:
            norm.seen = None
        for m, mode in modes.items():
            m.training = mode
    raise NetwrightError("Recalibration needs a module with CaRe-BN layers and at least one batch that reaches each of them.")
