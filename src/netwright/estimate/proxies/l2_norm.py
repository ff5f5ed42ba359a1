"""L2 norm of the initial weights: says how many layers there are and how large.

    score = sum_l || w_l ||_2                                    l: convolutions and linear layers

Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS, ICLR 2021 (code).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from netwright.core.paper import Paper
from netwright.estimate.proxies.grad_norm import GradNorm
from netwright.estimate.proxies.proxy import Loss, Proxy, total, weights


@dataclass(frozen=True)
class L2Norm(Proxy):
    """Sum over layers of the Euclidean norm of the weights."""

    name: ClassVar[str] = "l2_norm"
    needs = "shape"
    paper: ClassVar[Paper] = GradNorm.paper

    def measure(self, network: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
        return total([w.norm() for w in weights(network)])
