"""ReSTE: a rectified estimator between the straight-through one and the sign itself.

    f(v) = sign(v) |v|^(1/o):     slope(v) = |v|^((1-o)/o) / o        for m < |v| <= t,
                                             m^(1/o) / m              for |v| <= m,      0 beyond t

o = 1 is the straight-through estimator, a large o the sign: o grows in training, o = 1 + (o_end - 1)(1 - cos(pi/2 * progress)),
from stable gradients to a small error of estimation. Weights and activations; s = mean|w| of the whole layer, a constant.

The two indicators of the paper are `estimating_error` and `gradient_instability`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from netwright.compress.binarise.binariser import Binariser, BinaryLayer, SlopedLayer
from netwright.compress.compressor import Stage
from netwright.core.graph import Node
from netwright.core.paper import Paper


def slope(v: Tensor, o: float, m: float, t: float) -> Tensor:
    """What the estimator multiplies gradients by at v."""
    size = v.abs()
    inner = size.clamp(min=m) ** ((1 - o) / o) / o
    return torch.where(size <= m, m ** (1 / o) / m, inner) * (size <= t)


def estimating_error(v: Tensor, o: float) -> float:
    """Distance between sign(v) and sign(v)|v|^(1/o): what the estimator does not see, as a root of a sum of squares."""
    return float(torch.linalg.vector_norm(1 - v.detach().abs() ** (1 / o)))


def gradient_instability(v: Tensor, o: float, m: float, t: float) -> float:
    """Variance of the sizes of the slopes: large where gradients are large for few values."""
    return float(slope(v.detach(), o, m, t).var())


class ReSTELayer(SlopedLayer):
    def __init__(self, node: Node, weight: np.ndarray, bias: np.ndarray | None, end: float, m: float, t: float):
        super().__init__(node, weight, bias)
        self.end, self.m, self.t = end, m, t

    @property
    def scale(self) -> Tensor:
        return self.weight.detach().abs().mean().clamp(min=1e-8).expand(len(self.weight))

    @property
    def o(self) -> float:
        return 1 + (self.end - 1) * (1 - math.cos(math.pi / 2 * float(self.progress)))

    def slope(self, v: Tensor) -> Tensor:
        return slope(v, self.o, self.m, self.t)

    def indicators(self) -> dict[str, float]:
        """Both of the paper, of the latent weights; the error as a root of a mean, so that layers compare."""
        v = self.latent().detach()
        error = estimating_error(v, self.o) / math.sqrt(v.numel())
        return {"estimating error": error, "gradient instability": gradient_instability(v, self.o, self.m, self.t)}


@dataclass(frozen=True)
class ReSTE(Binariser):
    """Signs with a rectified power as estimator, which sharpens in training.

    Attributes:
        end: o at the end of training.
        m: below this size the slope is constant, so that it stays finite.
        t: beyond this size there is no gradient.
    """

    end: float = 3.0
    m: float = 0.1
    t: float = 1.5

    name: ClassVar[str] = "reste"
    stages: ClassVar[tuple[Stage, ...]] = (Stage("reste", 1.0, 3e-3),)
    paper: ClassVar[Paper] = Paper(
        "wu2023estimator",
        "Estimator Meets Equilibrium Perspective: A Rectified Straight Through Estimator for Binary Neural Networks Training",
        "Wu, Xiao-Ming and Zheng, Dian and Liu, Zuhao and Zheng, Wei-Shi",
        "ICCV",
        2023,
        "https://arxiv.org/abs/2308.06689",
        "S165",
    )

    def layer(self, node: Node, weight: np.ndarray, bias: np.ndarray | None) -> BinaryLayer:
        return ReSTELayer(node, weight, bias, self.end, self.m, self.t)
