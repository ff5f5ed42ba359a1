"""SNIP: how much the loss would change if single connections were cut.

    score = sum_w |w * dL/dw|

Lee et al., SNIP: Single-shot Network Pruning Based on Connection Sensitivity, ICLR 2019; summed over a network as by
Abdelfattah et al., ICLR 2021. The gradient by a mask of ones on w is w * dL/dw, so that no mask is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from netwright.core.paper import Paper
from netwright.estimate.proxies.proxy import Loss, Proxy, gradients, total, weights


@dataclass(frozen=True)
class SNIP(Proxy):
    """Sum of the absolute products of weights and gradients."""

    name: ClassVar[str] = "snip"
    paper: ClassVar[Paper] = Paper(
        "lee2019snip", "SNIP: Single-shot Network Pruning Based on Connection Sensitivity",
        "Lee, Namhoon and Ajanthan, Thalaiyasingam and Torr, Philip H. S.", "ICLR", 2019, "https://arxiv.org/abs/1810.02340",
    )  # fmt: skip

    def measure(self, network: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
        found = weights(network)
        return total([(w * g).abs() for w, g in zip(found, gradients(loss(network(x), y), found), strict=True)])
