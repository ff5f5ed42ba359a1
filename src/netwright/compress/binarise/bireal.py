"""Bi-Real Net: a gradient for the sign of activations that is nearer to it, and weights that know their size.

    sign(a):  dL/da = dL/dsign * max(0, 2 - 2|a|)        (ApproxSign, the slope of a piecewise quadratic)
    w_eff = s[o] * sign(w),  s = mean|w|, a constant:     dL/dw = dL/dw_eff * s[o] * [|w| <= 1]

The paper's shortcut around every convolution is a property of the network, not of the method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from netwright.compress.binarise.binariser import Binariser, BinaryLayer
from netwright.compress.binarise.estimators import ApproxSign
from netwright.compress.binarise.ste import STELayer
from netwright.compress.compressor import Stage
from netwright.core.graph import Node
from netwright.core.paper import Paper


class BiRealLayer(STELayer):
    def sign(self, a: Tensor) -> Tensor:
        return ApproxSign.apply(a)


@dataclass(frozen=True)
class BiReal(Binariser):
    """Binary weights with their mean size, activations with the gradient of ApproxSign."""

    name: ClassVar[str] = "bireal"
    stages: ClassVar[tuple[Stage, ...]] = (Stage("bireal", 1.0, 3e-3),)
    paper: ClassVar[Paper] = Paper(
        "liu2018bireal",
        "Bi-Real Net: Enhancing the Performance of 1-bit CNNs with Improved Representational Capability",
        "Liu, Zechun and Wu, Baoyuan and Luo, Wenhan and Yang, Xin and Liu, Wei and Cheng, Kwang-Ting",
        "ECCV",
        2018,
        "https://arxiv.org/abs/1808.00278",
    )

    def layer(self, node: Node, weight: np.ndarray, bias: np.ndarray | None) -> BinaryLayer:
        return BiRealLayer(node, weight, bias)
