"""ReCU: weights far out, which never change their sign, are brought back ("revived").

    w1 = (w - mean) * 2 sqrt(2) / std,     E = mean|w1|,     Q = -E ln(2 - 2 tau),     w2 = clamp(w1, -Q, Q),     w_b = sign(w2)

each channel; Q is the tau-quantile of a Laplace distribution of that mean. The gradient passes the sign as it is, and the
clamp inside its limits; tau grows in training, tau = 0.85 + 0.14 (e^progress - 1)/(e - 1). Activations: sign of a/std with the
gradient of ApproxSign, as in BiPer, which has it from here. s is learnt, one an output channel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from netwright.compress.binarise.binariser import Binariser, BinaryLayer
from netwright.compress.binarise.estimators import ApproxSign, NormalisedSign, SignThrough
from netwright.compress.compressor import Stage
from netwright.core.graph import Node
from netwright.core.paper import Paper

FIRST, LAST = 0.85, 0.99


def tau(progress: float) -> float:
    return FIRST + (LAST - FIRST) * (math.exp(progress) - 1) / (math.e - 1)


def revived(w: Tensor, t: float) -> Tensor:
    """w2 of weights [O, ...]."""
    flat = w.flatten(1)
    centred = flat - flat.mean(1, keepdim=True)
    w1 = centred * (2 * math.sqrt(2)) / centred.std(1, keepdim=True, correction=min(1, flat.shape[1] - 1)).clamp(min=1e-8)
    q = (-w1.abs().mean(1, keepdim=True) * math.log(2 - 2 * t)).detach()
    return torch.minimum(torch.maximum(w1, -q), q).reshape(w.shape)


class ReCULayer(BinaryLayer):
    def __init__(self, node: Node, weight: np.ndarray, bias: np.ndarray | None):
        super().__init__(node, weight, bias)
        self.alpha = nn.Parameter(self.mean_size())

    @property
    def scale(self) -> Tensor:
        return self.alpha

    def latent(self) -> Tensor:
        return revived(self.weight, tau(float(self.progress)))

    def binary(self) -> Tensor:
        return SignThrough.apply(self.latent())

    def sign(self, a: Tensor) -> Tensor:
        return (NormalisedSign if self.training else ApproxSign).apply(a)


@dataclass(frozen=True)
class ReCU(Binariser):
    """Standardised weights whose far ends are clamped, learnt scales."""

    name: ClassVar[str] = "recu"
    stages: ClassVar[tuple[Stage, ...]] = (Stage("recu", 1.0, 6e-3),)
    paper: ClassVar[Paper] = Paper(
        "xu2021recu",
        "ReCU: Reviving the Dead Weights in Binary Neural Networks",
        "Xu, Zihan and Lin, Mingbao and Liu, Jianzhuang and Chen, Jie and Shao, Ling and Gao, Yue "
        "and Tian, Yonghong and Ji, Rongrong",
        "ICCV",
        2021,
        "https://arxiv.org/abs/2103.12369",
    )

    def layer(self, node: Node, weight: np.ndarray, bias: np.ndarray | None) -> BinaryLayer:
        return ReCULayer(node, weight, bias)
