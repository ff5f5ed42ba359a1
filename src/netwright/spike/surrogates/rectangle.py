"""Rectangle surrogate of STBP.

    forward   s = H(x)
    backward  slope(x) = 1/a  for |x| < a/2,    0 elsewhere

Its area is 1. Elementwise; x and a in the unit of the membrane potential. Wu et al. 2018, their h_1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from netwright.core.paper import Paper
from netwright.spike.surrogates.surrogate import Surrogate


@dataclass(frozen=True)
class Rectangle(Surrogate):
    """The same gradient for all neurons within half a `width` of the threshold."""

    width: float = 1.0

    name: ClassVar[str] = "rectangle"
    paper: ClassVar[Paper] = Paper(
        "wu2018stbp", "Spatio-Temporal Backpropagation for Training High-Performance Spiking Neural Networks",
        "Wu, Yujie and Deng, Lei and Li, Guoqi and Zhu, Jun and Shi, Luping", "Frontiers in Neuroscience", 2018,
        "https://arxiv.org/abs/1706.02609",
    )  # fmt: skip

    def slope(self, x: Tensor) -> Tensor:
        return (x.abs() < self.width / 2).to(x.dtype) / self.width
