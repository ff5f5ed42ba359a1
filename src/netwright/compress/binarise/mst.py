"""MST-compression, the training: binary filters that are near each other, so that the tree which stores them is short.

    k, t(o) = argmin over k, t = -1, +1 of  |w[o] - s[o] t c[k]|^2        the nearest of K binary centres c, or its complement
    L_mst   = weight * sum over layers, o of  1/2 |w[o] - s[o] t c[k]|^2                           s = mean|w|, a constant
    c[k]    = sign(sum over the o of centre k of  s[o] t(o) w[o])                            which makes L_mst least, every step

added to the loss of the task: ``dL_mst/dw[o] = weight * (w[o] - s[o] t c[k])``. w [O, ...] are latent weights, seen as O filters
of n values, c is [K, n]. Two filters of one centre differ at most in the bits in which either differs from it, and the edges of
a minimum spanning tree are the shortest there are. Weights and activations are those of Bi-Real Net otherwise.

The codec and what it saves are in the deployment (`mst.layers` lists every layer's tree, bytes and bit operations); the
network computes what it computed before, in the same integers.

Differs from the paper: the pull is on latent weights and squared, where the paper's body was not at hand; centres are set to the
best ones in place of being learnt by gradient; complements count as near, since a tree takes them for one bit more; the depth
is not in the loss (few centres make shallow trees).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from netwright.compress.binarise.binariser import BinaryLayer
from netwright.compress.binarise.bireal import BiReal, BiRealLayer
from netwright.compress.coded import signs
from netwright.compress.compressor import Stage
from netwright.compress.trainee import Trainee, WithLoss
from netwright.core.errors import NetwrightError
from netwright.core.graph import Node
from netwright.core.paper import Paper


def nearest(w: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest of the centres [K, n] for filters w [O, n]: k [O], and t [O, 1], -1 where its complement is nearer."""
    product = w @ centres.T  # |w - s t c|^2 = |w|^2 - 2 s t w.c + n s^2
    k = product.abs().argmax(1)
    return k, signs(product.gather(1, k[:, None]))


def recentred(w: Tensor, s: Tensor, centres: Tensor) -> Tensor:
    """Centres [K, n] at which the sum of ``|w - s t c|^2`` is least while filters keep their centres; s [O, 1]."""
    k, t = nearest(w, centres)
    sums = torch.zeros_like(centres).index_add_(0, k, s * t * w)
    return torch.where(sums == 0, centres, signs(sums))


class MSTLayer(BiRealLayer):
    """Bi-Real weights with K centres, towards which its filters are pulled in training."""

    centres: Tensor

    def __init__(self, node: Node, weight: np.ndarray, bias: np.ndarray | None, pull: float, count: int):
        super().__init__(node, weight, bias)
        self.pull = pull
        filters = signs(self.weight.detach().flatten(1))
        count = min(count, max(1, len(filters) // 2))  # as many centres as filters would pull nothing
        self.register_buffer("centres", filters[torch.linspace(0, len(filters) - 1, count).round().long()])

    def distance(self) -> Tensor:
        """``1/2 sum over o of |w[o] - s[o] t c[k]|^2``, a scalar."""
        w, s = self.weight.flatten(1), self.mean_size()[:, None]
        with torch.no_grad():
            k, t = nearest(w, self.centres)
            target = s * t * self.centres[k]
        return (w - target).square().sum() / 2

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        if not self.training or not torch.is_grad_enabled() or not self.pull:
            return out
        with torch.no_grad():
            self.centres.copy_(recentred(self.weight.flatten(1), self.mean_size()[:, None], self.centres))
        pulled: Tensor = WithLoss.apply(out, self.pull * self.distance())
        return pulled


@dataclass(frozen=True)
class MST(BiReal):
    """Binary weights whose filters gather around a few centres, for a small file.

    Attributes:
        weight: of the loss that pulls filters to their centres; 0 is Bi-Real Net. Larger is shorter trees and less accuracy:
            on digits (in the tests) 2e-3 makes them less than half as long, for one to two points.
        centres: K of each layer, at most half as many as it has filters.

    Raises:
        NetwrightError: a weight below 0, or no centre.
    """

    weight: float = 1e-3
    centres: int = 8

    name: ClassVar[str] = "mst"
    stages: ClassVar[tuple[Stage, ...]] = (Stage("mst", 1.0, 3e-3),)
    paper: ClassVar[Paper] = Paper(
        "vo2023mst", "MST-compression: Compressing and Accelerating Binary Neural Networks with Minimum Spanning Tree",
        "Vo, Quang Hieu and Tran, Linh-Tam and Bae, Sung-Ho and Kim, Lok-Won and Hong, Choong Seon", "ICCV", 2023,
        "https://arxiv.org/abs/2308.13735", "S160",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if not self.weight >= 0 or self.centres < 1:
            raise NetwrightError(
                f"mst was asked for weight = {self.weight} and centres = {self.centres}. "
                "Give a weight of at least 0, for example 1e-3, and at least one centre."
            )

    def layer(self, node: Node, weight: np.ndarray, bias: np.ndarray | None) -> BinaryLayer:
        return MSTLayer(node, weight, bias, self.weight, self.centres)

    def prepare(self, module: nn.Module, example: Tensor, calibration: Tensor) -> Trainee:
        found = super().prepare(module, example, calibration)
        object.__setattr__(found, "last", True)  # trees shorten to the end: earlier weights are not a result
        return found
