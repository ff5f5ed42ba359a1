"""Statistics-based ternary weights of binary and ternary text transformers.

    s = 4/3 mean|w|,     w_t = round(clamp(w / s, -1, 1)),     each channel

Weights that are uniform between -2 and 2 times their mean size fall into three equal parts then. The gradient passes straight
through rounding and clamp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from netwright.compress.compressor import Stage
from netwright.compress.ternarise.ternariser import Ternariser, TernaryLayer, straight
from netwright.core.graph import Node
from netwright.core.paper import Paper


def ternary(w: Tensor) -> tuple[Tensor, Tensor]:
    """s * w_t and s [O] of weights [O, ...]."""
    flat = w.detach().flatten(1)
    scale = (4 / 3 * flat.abs().mean(1)).clamp(min=1e-8)
    value = torch.round((flat / scale[:, None]).clamp(-1, 1)) * scale[:, None]
    return straight(value.reshape(w.shape), w), scale


class TBTLayer(TernaryLayer):
    def ternary(self) -> tuple[Tensor, Tensor]:
        return ternary(self.weight)


@dataclass(frozen=True)
class TBT(Ternariser):
    """Ternary weights with a scale from their mean size."""

    name: ClassVar[str] = "tbt"
    stages: ClassVar[tuple[Stage, ...]] = (Stage("tbt", 1.0, 2e-3),)
    paper: ClassVar[Paper] = Paper(
        "liu2023binary", "Binary and Ternary Natural Language Generation",
        "Liu, Zechun and Oguz, Barlas and Pappu, Aasish and Shi, Yangyang and Krishnamoorthi, Raghuraman", "ACL", 2023,
        "https://arxiv.org/abs/2306.01841", "S168",
    )  # fmt: skip

    def layer(self, node: Node, weight: np.ndarray, bias: np.ndarray | None) -> TernaryLayer:
        return TBTLayer(node, weight, bias)
