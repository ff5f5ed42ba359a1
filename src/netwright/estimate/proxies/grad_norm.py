"""Gradient norm: how much the weights want to move.

    score = sum_l || dL / dw_l ||_2                              l: convolutions and linear layers, L: mean loss of the batch

Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS, ICLR 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from netwright.core.paper import Paper
from netwright.estimate.proxies.proxy import Loss, Proxy, gradients, total, weights


@dataclass(frozen=True)
class GradNorm(Proxy):
    """Sum over layers of the Euclidean norm of the gradient of the loss."""

    name: ClassVar[str] = "grad_norm"
    paper: ClassVar[Paper] = Paper(
        "abdelfattah2021zerocost", "Zero-Cost Proxies for Lightweight NAS",
        "Abdelfattah, Mohamed S. and Mehrotra, Abhinav and Dudziak, Lukasz and Lane, Nicholas D.",
        "ICLR", 2021, "https://arxiv.org/abs/2101.08134",
    )  # fmt: skip

    def measure(self, network: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
        return total([g.norm() for g in gradients(loss(network(x), y), weights(network))])
