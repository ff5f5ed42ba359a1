"""The plain straight-through estimator of binarised neural networks: the baseline.

    w_b = sign(w),   dL/dw = dL/dw_b * [|w| <= 1];      the same for activations;      s = mean|w|, a constant

The scale is that of XNOR-Net without its gradient; batch norm behind the layer can undo it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from netwright.compress.binarise.binariser import Binariser, BinaryLayer
from netwright.compress.binarise.estimators import ClippedSign
from netwright.compress.compressor import Stage
from netwright.core.graph import Node
from netwright.core.paper import Paper


class STELayer(BinaryLayer):
    @property
    def scale(self) -> Tensor:
        return self.mean_size()

    def binary(self) -> Tensor:
        return ClippedSign.apply(self.weight)

    def sign(self, a: Tensor) -> Tensor:
        return ClippedSign.apply(a)


@dataclass(frozen=True)
class STE(Binariser):
    """Binary weights and activations by the clipped straight-through estimator."""

    name: ClassVar[str] = "ste"
    stages: ClassVar[tuple[Stage, ...]] = (Stage("ste", 1.0, 3e-3),)
    paper: ClassVar[Paper] = Paper(
        "hubara2016binarized",
        "Binarized Neural Networks",
        "Hubara, Itay and Courbariaux, Matthieu and Soudry, Daniel and El-Yaniv, Ran and Bengio, Yoshua",
        "NeurIPS",
        2016,
        "https://arxiv.org/abs/1602.02830",
    )

    def layer(self, node: Node, weight: np.ndarray, bias: np.ndarray | None) -> BinaryLayer:
        return STELayer(node, weight, bias)
