"""BitNet b1.58, median variant: ternary weights learnt in training.

Forward, per tensor, gamma = median|W| (variant "mean": mean|W|, the first b1.58):

    W_t = round(clamp(W / (gamma + eps), -1, 1)),    y = gamma * (W_t * x_q)

Backward: identity straight through both the rounding and the clamp, ``dL/dW = dL/d(gamma*W_t)``; gamma is a constant of
the step. Activations have 8 bits.

Differs from the paper: the activations' scales are static, one a tensor, chosen in training and fixed afterwards. The
paper scales every token by its own absolute maximum behind a layer norm, which costs a pass over the data and a division
for each input; static scales make inference integer-only. Convolutions are ternarised like linear layers. The median of a
tensor more than half zero is 0: the mean takes its place there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from netwright.compress.compressor import Stage
from netwright.compress.ternarise.ternariser import Ternariser, TernaryLayer
from netwright.core.graph import Node
from netwright.core.paper import Paper

Measure = Literal["median", "mean"]


def gamma(w: Tensor, measure: Measure, eps: float) -> Tensor:
    """Scale of a weight tensor, a scalar >= eps."""
    size = w.detach().abs()
    g = size.median() if measure == "median" else size.mean()
    return torch.where(g > eps, g, size.mean()).clamp(min=eps)


def ternary(w: Tensor, g: Tensor) -> Tensor:
    """``round(clamp(w/g, -1, 1))``, gradient 1/g everywhere."""
    v = w / g
    return v + (torch.round(v.clamp(-1, 1)) - v).detach()


class BitNetLayer(TernaryLayer):
    def __init__(self, node: Node, weight: np.ndarray, bias: np.ndarray | None, measure: Measure, eps: float):
        super().__init__(node, weight, bias)
        self.measure, self.eps = measure, eps

    def ternary(self) -> tuple[Tensor, Tensor]:
        g = gamma(self.weight, self.measure, self.eps)
        return ternary(self.weight, g) * g, g.expand(len(self.weight))


@dataclass(frozen=True)
class BitNet(Ternariser):
    """Ternary weights by rounding at their median or mean size.

    Attributes:
        measure: median (b1.58 Reloaded, better for small networks) or mean (b1.58).
        eps: floor of gamma.
    """

    measure: Measure = "median"
    eps: float = 1e-5

    name: ClassVar[str] = "bitnet"
    stages: ClassVar[tuple[Stage, ...]] = (Stage("ternary", 1.0, 2e-3),)
    paper: ClassVar[Paper] = Paper(
        "nielsen2024bitnet",
        "BitNet b1.58 Reloaded: State-of-the-art Performance Also on Smaller Networks",
        "Jacob Nielsen and Peter Schneider-Kamp",
        "DeLTA",
        2024,
        "https://arxiv.org/abs/2407.09527",
        "S170",
    )

    def layer(self, node: Node, weight: np.ndarray, bias: np.ndarray | None) -> TernaryLayer:
        return BitNetLayer(node, weight, bias, self.measure, self.eps)
