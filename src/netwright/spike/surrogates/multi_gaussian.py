"""Multi-Gaussian surrogate: a bell with a negative rim.

    forward   s = H(x)
    backward  slope(x) = (1 + h) N(x; 0, sigma) - h N(x; sigma, s sigma) - h N(x; -sigma, s sigma)

N(x; m, d) is the density of the normal distribution of mean m and standard deviation d. Its area is 1 - h. Elementwise; x
and sigma in the unit of the membrane potential. Yin et al. 2021, with their h = 0.15, s = 6, sigma = 0.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from netwright.core.paper import Paper
from netwright.spike.surrogates.surrogate import Surrogate


def density(x: Tensor, mean: float, deviation: float) -> Tensor:
    """N(x; mean, deviation)."""
    return torch.exp(-(((x - mean) / deviation) ** 2) / 2) / (deviation * math.sqrt(2 * math.pi))


@dataclass(frozen=True)
class MultiGaussian(Surrogate):
    """Far from the threshold the sign of the gradient turns: two weak bells, `s` times as wide, of weight `h` are taken off."""

    h: float = 0.15
    s: float = 6.0
    sigma: float = 0.5

    name: ClassVar[str] = "multi-gaussian"
    paper: ClassVar[Paper] = Paper(
        "yin2021accurate", "Accurate and Efficient Time-Domain Classification with Adaptive Spiking Recurrent Neural Networks",
        "Yin, Bojian and Corradi, Federico and Bohte, Sander M.", "Nature Machine Intelligence", 2021,
        "https://arxiv.org/abs/2103.12593",
    )  # fmt: skip

    def slope(self, x: Tensor) -> Tensor:
        wide = self.s * self.sigma
        rim = density(x, self.sigma, wide) + density(x, -self.sigma, wide)
        return (1 + self.h) * density(x, 0.0, self.sigma) - self.h * rim
