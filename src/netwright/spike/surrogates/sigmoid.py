"""Sigmoid surrogate.

    forward   s = H(x)
    backward  slope(x) = alpha p (1 - p),    p = 1 / (1 + exp(-alpha x))

Its area is 1 and its height alpha/4. Elementwise; x in the unit of the membrane potential. Neftci et al. 2019 name it
among the surrogates in use; their own experiments take the fast sigmoid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from netwright.core.paper import Paper
from netwright.spike.surrogates.surrogate import Surrogate


@dataclass(frozen=True)
class Sigmoid(Surrogate):
    """The derivative of the logistic function of steepness `alpha`."""

    alpha: float = 4.0

    name: ClassVar[str] = "sigmoid"
    paper: ClassVar[Paper] = Paper(
        "neftci2019surrogate", "Surrogate Gradient Learning in Spiking Neural Networks",
        "Neftci, Emre O. and Mostafa, Hesham and Zenke, Friedemann", "IEEE Signal Processing Magazine", 2019,
        "https://arxiv.org/abs/1901.09948",
    )  # fmt: skip

    def slope(self, x: Tensor) -> Tensor:
        p = torch.sigmoid(self.alpha * x)
        return self.alpha * p * (1 - p)
