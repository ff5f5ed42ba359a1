"""Plain: SNIP without the absolute value; the baseline of the zero-cost literature, mostly noise.

    score = sum_w w * dL/dw

On NAS-Bench-201 two tables of the same networks, with batches of 32 and of 64, agree with rank correlation 0.19, and smaller
is better (-0.37 with the accuracy on CIFAR-10, -0.34 on ImageNet16-120).

Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS, ICLR 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from netwright.core.paper import Paper
from netwright.estimate.proxies.grad_norm import GradNorm
from netwright.estimate.proxies.proxy import Loss, Proxy, gradients, total, weights


@dataclass(frozen=True)
class Plain(Proxy):
    """Sum of the products of weights and gradients, with their signs."""

    name: ClassVar[str] = "plain"
    larger_is_better: ClassVar[bool] = False
    paper: ClassVar[Paper] = GradNorm.paper

    def measure(self, network: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
        found = weights(network)
        return total([w * g for w, g in zip(found, gradients(loss(network(x), y), found), strict=True)])
