"""Arctangent surrogate.

    forward   s = H(x)
    backward  slope(x) = alpha/2 / (1 + (pi/2 alpha x)^2),    the derivative of arctan(pi/2 alpha x) / pi + 1/2

Its area is 1 and its height alpha/2. Elementwise; x in the unit of the membrane potential. Fang et al. 2021.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from netwright.core.paper import Paper
from netwright.spike.surrogates.surrogate import Surrogate


@dataclass(frozen=True)
class ArcTan(Surrogate):
    """Heavy tails: neurons far from the threshold learn too. `alpha` is twice the height of the slope."""

    alpha: float = 2.0

    name: ClassVar[str] = "arctan"
    paper: ClassVar[Paper] = Paper(
        "fang2021plif", "Incorporating Learnable Membrane Time Constant to Enhance Learning of Spiking Neural Networks",
        "Fang, Wei and Yu, Zhaofei and Chen, Yanqi and Masquelier, Timothee and Huang, Tiejun and Tian, Yonghong", "ICCV", 2021,
        "https://arxiv.org/abs/2007.05785",
    )  # fmt: skip

    def slope(self, x: Tensor) -> Tensor:
        return self.alpha / 2 / (1 + (math.pi / 2 * self.alpha * x) ** 2)


ARCTAN = ArcTan()
