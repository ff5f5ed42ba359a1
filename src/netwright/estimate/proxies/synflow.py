"""SynFlow: the flow of synaptic strength through the whole network, without data.

    R = sum of the outputs of |network|(1),     score = log sum_w |w * dR/dw|

|network| has all parameters at their absolute values and no batch norms, in double precision; its input is one example of
ones. -inf where nothing flows.

Tanaka et al., Pruning Neural Networks Without Any Data by Iteratively Conserving Synaptic Flow, NeurIPS 2020; the logarithm
is that of NAS-Bench-Suite-Zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from netwright.core.paper import Paper
from netwright.estimate.proxies.proxy import NORMS, Loss, Proxy, gradients, total, weights


@dataclass(frozen=True)
class SynFlow(Proxy):
    """Logarithm of the synaptic flow of absolute weights."""

    name: ClassVar[str] = "synflow"
    needs = "shape"
    paper: ClassVar[Paper] = Paper(
        "tanaka2020synflow", "Pruning Neural Networks Without Any Data by Iteratively Conserving Synaptic Flow",
        "Tanaka, Hidenori and Kunin, Daniel and Yamins, Daniel L. K. and Ganguli, Surya",
        "NeurIPS", 2020, "https://arxiv.org/abs/2006.05467",
    )  # fmt: skip

    def measure(self, network: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
        network.double()
        with torch.no_grad():
            for p in network.parameters():
                p.abs_()
        for module in network.modules():
            if isinstance(module, NORMS):
                module.forward = lambda input: input  # type: ignore[method-assign]
        ones = torch.ones_like(x[:1], dtype=torch.float64 if x.is_floating_point() else x.dtype)
        found = weights(network)
        return total([(w * g).abs() for w, g in zip(found, gradients(network(ones).sum(), found), strict=True)]).log()
