"""FDA: the gradient of the sign from its Fourier series (frequency domain approximation).

    sign(v) = 4/pi sum_i sin((2i+1) w v)/(2i+1)      so      slope(v) = 4w/pi sum_{i=0..n} cos((2i+1) w v),  |v| <= 1

for weights and activations, with w = 0.1 and n = 9. The paper's noise adaptation module, a small network that learns the rest of
the series in training, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from netwright.compress.binarise.binariser import Binariser, BinaryLayer, SlopedLayer
from netwright.compress.compressor import Stage
from netwright.core.graph import Node
from netwright.core.paper import Paper


def slope(v: Tensor, frequency: float, terms: int) -> Tensor:
    """The derivative of the first `terms` + 1 terms of the series, 0 where |v| > 1."""
    total = torch.zeros_like(v)
    for i in range(terms + 1):
        total += torch.cos((2 * i + 1) * frequency * v)
    return total * (4 * frequency / torch.pi) * (v.abs() <= 1)


class FDALayer(SlopedLayer):
    def __init__(self, node: Node, weight: np.ndarray, bias: np.ndarray | None, frequency: float, terms: int):
        super().__init__(node, weight, bias)
        self.frequency, self.terms = frequency, terms

    def slope(self, v: Tensor) -> Tensor:
        return slope(v, self.frequency, self.terms)


@dataclass(frozen=True)
class FDA(Binariser):
    """Signs with the gradient of a cut Fourier series.

    Attributes:
        frequency: w of the series.
        terms: n of the series.
    """

    frequency: float = 0.1
    terms: int = 9

    name: ClassVar[str] = "fda"
    stages: ClassVar[tuple[Stage, ...]] = (Stage("fda", 1.0, 3e-3),)
    paper: ClassVar[Paper] = Paper(
        "xu2021learning",
        "Learning Frequency Domain Approximation for Binary Neural Networks",
        "Xu, Yixing and Han, Kai and Xu, Chang and Tang, Yehui and Xu, Chunjing and Wang, Yunhe",
        "NeurIPS",
        2021,
        "https://arxiv.org/abs/2103.00841",
    )

    def layer(self, node: Node, weight: np.ndarray, bias: np.ndarray | None) -> BinaryLayer:
        return FDALayer(node, weight, bias, self.frequency, self.terms)
