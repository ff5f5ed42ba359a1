"""Triangle surrogate: the spike's integral is piecewise quadratic, its slope piecewise linear.

    forward   s = H(x)
    backward  slope(x) = max(0, 1 - |x|/w) / w

Its area is 1, its height 1/w. Elementwise; x and w in the unit of the membrane potential. Esser et al. 2016, with w = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from netwright.core.paper import Paper
from netwright.spike.surrogates.surrogate import Surrogate


@dataclass(frozen=True)
class Triangle(Surrogate):
    """No gradient further than `width` from the threshold."""

    width: float = 1.0

    name: ClassVar[str] = "triangle"
    paper: ClassVar[Paper] = Paper(
        "esser2016convolutional", "Convolutional Networks for Fast, Energy-Efficient Neuromorphic Computing",
        "Esser, Steven K. and Merolla, Paul A. and Arthur, John V. and Cassidy, Andrew S. and others", "PNAS", 2016,
        "https://arxiv.org/abs/1603.08270",
    )  # fmt: skip

    def slope(self, x: Tensor) -> Tensor:
        return torch.relu(1 - x.abs() / self.width) / self.width
