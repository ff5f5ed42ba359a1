"""Ternary weight networks: a threshold and a scale near those of least squared error.

    D = 0.7 mean|w|,     w_t = sign(w) [|w| > D],     s = mean of |w| over |w| > D,     each channel

The gradient passes straight: dL/dw = dL/d(s w_t); D and s are constants of the step.
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


def ternary(w: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """s * w_t and s [O] of weights [O, ...]."""
    flat = w.detach().flatten(1)
    size = flat.abs()
    kept = size > threshold * size.mean(1, keepdim=True)
    scale = ((size * kept).sum(1) / kept.sum(1).clamp(min=1)).clamp(min=1e-8)
    return straight((torch.sign(flat) * kept * scale[:, None]).reshape(w.shape), w), scale


class TWNLayer(TernaryLayer):
    def __init__(self, node: Node, weight: np.ndarray, bias: np.ndarray | None, threshold: float):
        super().__init__(node, weight, bias)
        self.threshold = threshold

    def ternary(self) -> tuple[Tensor, Tensor]:
        return ternary(self.weight, self.threshold)


@dataclass(frozen=True)
class TWN(Ternariser):
    """Ternary weights by a threshold on their size.

    Attributes:
        threshold: share of the mean size below which a weight is 0.
    """

    threshold: float = 0.7

    name: ClassVar[str] = "twn"
    stages: ClassVar[tuple[Stage, ...]] = (Stage("twn", 1.0, 2e-3),)
    paper: ClassVar[Paper] = Paper(
        "li2016ternary", "Ternary Weight Networks", "Li, Fengfu and Liu, Bin and Wang, Xiaoxing and Zhang, Bo and Yan, Junchi",
        "ICASSP", 2023, "https://arxiv.org/abs/1605.04711",
    )  # fmt: skip

    def layer(self, node: Node, weight: np.ndarray, bias: np.ndarray | None) -> TernaryLayer:
        return TWNLayer(node, weight, bias, self.threshold)
