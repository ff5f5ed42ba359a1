"""GradSign: whether single examples agree on the direction of each weight.

    score = sum_w | sum_n sign(dL_n/dw) |                        L_n: the loss of example n

The more they agree, the closer the local optima of the examples lie to the start, and the lower the bound of the loss.

Zhang and Jia, GradSign: Model Performance Inference with Theoretical Insights, ICLR 2022, algorithm 1. Differs: batch norms
take the statistics of the whole batch as constants; the authors' code runs each example in training mode by itself, which has no
meaning where a norm sees one value a channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from netwright.core.paper import Paper
from netwright.estimate.proxies.proxy import NORMS, Loss, Proxy, gradients, total, weights


@dataclass(frozen=True)
class GradSign(Proxy):
    """Agreement of the signs of the gradients of single examples."""

    name: ClassVar[str] = "gradsign"
    paper: ClassVar[Paper] = Paper(
        "zhang2022gradsign", "GradSign: Model Performance Inference with Theoretical Insights",
        "Zhang, Zhihao and Jia, Zhihao", "ICLR", 2022, "https://arxiv.org/abs/2110.08616", "S084",
    )  # fmt: skip

    def measure(self, network: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
        for norm in network.modules():
            if isinstance(norm, NORMS) and norm.track_running_stats:
                norm.reset_running_stats()
                norm.momentum = None  # the mean over the batches seen, of which there is one
        with torch.no_grad():
            network(x)
        network.eval()
        found = weights(network)
        votes = [torch.zeros_like(w) for w in found]
        for i in range(len(x)):
            for vote, g in zip(votes, gradients(loss(network(x[i : i + 1]), y[i : i + 1]), found), strict=True):
                vote += g.sign()
        return total([v.abs() for v in votes])
