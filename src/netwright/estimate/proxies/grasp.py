"""GraSP: how much the gradient's flow would change if single connections were cut.

    g = dL/dw,     score = - sum_w w * (H g)_w,     H: the Hessian of L over the weights of convolutions and linear layers

H g is the gradient of <stop(g), g>. Larger is better: the sign is that of the zero-cost literature, in which the sum of the
paper's saliencies is positively correlated with accuracy (0.49 on NAS-Bench-201, CIFAR-10).

Wang et al., Picking Winning Tickets Before Training by Preserving Gradient Flow, ICLR 2020; summed over a network as by
Abdelfattah et al., ICLR 2021. Differs: one temperature (1) and one batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from netwright.core.paper import Paper
from netwright.estimate.proxies.proxy import Loss, Proxy, gradients, total, weights


@dataclass(frozen=True)
class GraSP(Proxy):
    """Minus the sum of weights times the Hessian's product with the gradient."""

    name: ClassVar[str] = "grasp"
    paper: ClassVar[Paper] = Paper(
        "wang2020grasp", "Picking Winning Tickets Before Training by Preserving Gradient Flow",
        "Wang, Chaoqi and Zhang, Guodong and Grosse, Roger", "ICLR", 2020, "https://arxiv.org/abs/2002.07376",
    )  # fmt: skip

    def measure(self, network: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
        found = weights(network)
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # the fused kernels have no second derivative
            first = gradients(loss(network(x), y), found, create_graph=True)
            flow = torch.stack([(g.detach() * g).sum() for g in first]).sum()
            return -total([w * h for w, h in zip(found, gradients(flow, found), strict=True)])
