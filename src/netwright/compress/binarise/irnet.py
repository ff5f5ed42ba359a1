"""IR-Net: balanced weights, scales that are powers of two, and a sign that hardens in training.

    w^ = (w - mean) / std,  each channel;      w_eff = 2^rint(log2 mean|w^|) * sign(w^)
    slope(v) = k t (1 - tanh(t v)^2),   t = 10^(log10 t0 + (log10 t1 - log10 t0) progress),   k = max(1/t, 1)      (EDE)

for weights (of w^) and activations, t from 0.001 to 10: from the identity to the sign. The gradient of w^ goes through mean
and std.
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


def sharpness(progress: float, first: float, last: float) -> float:
    return 10 ** (math.log10(first) + (math.log10(last) - math.log10(first)) * progress)


def slope(v: Tensor, t: float) -> Tensor:
    """The derivative of ``k tanh(t v)``, k = max(1/t, 1)."""
    return max(1 / t, 1.0) * t * (1 - torch.tanh(t * v) ** 2)


class IRNetLayer(SlopedLayer):
    def __init__(self, node: Node, weight: np.ndarray, bias: np.ndarray | None, first: float, last: float):
        super().__init__(node, weight, bias)
        self.first, self.last = first, last

    def latent(self) -> Tensor:
        flat = self.weight.flatten(1)
        centred = flat - flat.mean(1, keepdim=True)
        return (centred / centred.std(1, keepdim=True, correction=min(1, flat.shape[1] - 1)).clamp(min=1e-8)).reshape(
            self.weight.shape
        )

    @property
    def scale(self) -> Tensor:
        size = self.latent().detach().abs().flatten(1).mean(1).clamp(min=1e-8)
        return 2.0 ** torch.round(torch.log2(size))

    def slope(self, v: Tensor) -> Tensor:
        return slope(v, sharpness(float(self.progress), self.first, self.last))


@dataclass(frozen=True)
class IRNet(Binariser):
    """Standardised weights, power-of-two scales, and the error decay estimator.

    Attributes:
        first: sharpness t at the start.
        last: sharpness t at the end.
    """

    first: float = 1e-3
    last: float = 10.0

    name: ClassVar[str] = "irnet"
    stages: ClassVar[tuple[Stage, ...]] = (Stage("irnet", 1.0, 3e-3),)
    paper: ClassVar[Paper] = Paper(
        "qin2020forward",
        "Forward and Backward Information Retention for Accurate Binary Neural Networks",
        "Qin, Haotong and Gong, Ruihao and Liu, Xianglong and Shen, Mingzhu and Wei, Ziran and Yu, Fengwei and Song, Jingkuan",
        "CVPR",
        2020,
        "https://arxiv.org/abs/1909.10788",
    )

    def layer(self, node: Node, weight: np.ndarray, bias: np.ndarray | None) -> BinaryLayer:
        return IRNetLayer(node, weight, bias, self.first, self.last)
