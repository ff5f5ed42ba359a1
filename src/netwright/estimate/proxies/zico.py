"""ZiCo: gradients that are large and alike from batch to batch.

    score = sum_l log sum_(w in l) mean_b |g_w(b)| / std_b g_w(b)

g(b): gradient of the loss of part b of the batch, cut into `parts`; weights whose gradient does not vary are left out, and
layers of which none is left. -inf where no layer is left.

Li et al., ZiCo: Zero-shot NAS via Inverse Coefficient of Variation on Gradients, ICLR 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.estimate.proxies.proxy import WORST, Loss, Proxy, gradients, weights


@dataclass(frozen=True)
class ZiCo(Proxy):
    """Inverse coefficient of variation of the gradients, layer by layer.

    Attributes:
        parts: of the batch; the paper has two batches of 128.
    """

    name: ClassVar[str] = "zico"
    paper: ClassVar[Paper] = Paper(
        "li2023zico", "ZiCo: Zero-shot NAS via Inverse Coefficient of Variation on Gradients",
        "Li, Guihong and Yang, Yuedong and Bhardwaj, Kartikeya and Marculescu, Radu", "ICLR", 2023, "https://arxiv.org/abs/2301.11300",
    )  # fmt: skip
    parts: int = 2

    def measure(self, network: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> float | Tensor:
        if self.parts < 2 or len(x) < 2 * self.parts:
            raise NetwrightError(
                f"zico cuts the batch into {self.parts} parts of at least 2 examples; the batch has {len(x)}. "
                f"Give parts=2 or more, and at least {2 * max(2, self.parts)} examples."
            )
        found = weights(network)
        pieces = zip(x.tensor_split(self.parts), y.tensor_split(self.parts), strict=True)
        runs = [gradients(loss(network(a), b), found) for a, b in pieces]
        layers = []
        for grads in zip(*runs, strict=True):
            g = torch.stack(grads).double()
            std = g.std(0, correction=0)
            if bool((kept := std > 0).any()):
                layers.append((g.abs().mean(0)[kept] / std[kept]).sum().log())
        return torch.stack(layers).sum() if layers else WORST
