"""Exponential surrogate of SLAYER.

    forward   s = H(x)
    backward  slope(x) = alpha exp(-beta |x|)

The density of the escape rate of a noisy threshold; its area is 2 alpha/beta. Elementwise; x in the unit of the membrane
potential, beta in its inverse. Shrestha and Orchard 2018. The paper scales both to the task; alpha = 1 and
beta = 5 are chosen here for thresholds of 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from netwright.core.paper import Paper
from netwright.spike.surrogates.surrogate import Surrogate


@dataclass(frozen=True)
class Exponential(Surrogate):
    """Height `alpha`, falling by 1/e every 1/`beta`."""

    alpha: float = 1.0
    beta: float = 5.0

    name: ClassVar[str] = "exponential"
    paper: ClassVar[Paper] = Paper(
        "shrestha2018slayer", "SLAYER: Spike Layer Error Reassignment in Time",
        "Shrestha, Sumit Bam and Orchard, Garrick", "NeurIPS", 2018, "https://arxiv.org/abs/1810.08646",
    )  # fmt: skip

    def slope(self, x: Tensor) -> Tensor:
        return self.alpha * torch.exp(-self.beta * x.abs())
