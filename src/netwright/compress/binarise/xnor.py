"""XNOR-Net: binary weights with a scale for each channel, which has a gradient.

    w_eff = s[o] * sign(w),  s = mean|w| over the channel,      dL/dw = dL/dw_eff * s[o] * [|w| <= 1]
                                                                        + sign(w)/n * sum(dL/dw_eff * sign(w))

Activations: sign with the clipped gradient. The paper's map of input scales K is left out: it multiplies every output pixel by a
number of its own, which does not fold into a channel's rescaling (and helps little, as the authors of XNOR-Net++ found).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from netwright.compress.binarise.binariser import Binariser, BinaryLayer
from netwright.compress.binarise.ste import STELayer
from netwright.compress.compressor import Stage
from netwright.core.graph import Node
from netwright.core.paper import Paper


class XNORLayer(STELayer):
    @property
    def scale(self) -> Tensor:
        return self.weight.abs().flatten(1).mean(1).clamp(min=1e-8)


@dataclass(frozen=True)
class XNOR(Binariser):
    """Binary weights whose scale is the mean size of the latent ones, with its gradient."""

    name: ClassVar[str] = "xnor"
    stages: ClassVar[tuple[Stage, ...]] = (Stage("xnor", 1.0, 3e-3),)
    paper: ClassVar[Paper] = Paper(
        "rastegari2016xnor",
        "XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks",
        "Rastegari, Mohammad and Ordonez, Vicente and Redmon, Joseph and Farhadi, Ali",
        "ECCV",
        2016,
        "https://arxiv.org/abs/1603.05279",
    )

    def layer(self, node: Node, weight: np.ndarray, bias: np.ndarray | None) -> BinaryLayer:
        return XNORLayer(node, weight, bias)
