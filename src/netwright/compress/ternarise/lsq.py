"""Learned step size quantisation, at the three levels of two bits.

    w_q = s * round(clamp(w / s, -1, 1)),        dL/dw = dL/dw_q * [|w| <= s]
    dL/ds = g * sum dL/dw_q * (round(w/s) - w/s  inside,  -1 or 1 outside),        g = 1 / sqrt(N)

s is one number a layer, learnt; it starts at 2 mean|w|. N is the number of weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from netwright.compress.compressor import Stage
from netwright.compress.ternarise.ternariser import Ternariser, TernaryLayer
from netwright.core.graph import Node
from netwright.core.paper import Paper


class LearnedStep(torch.autograd.Function):
    """``s * round(clamp(w / s, -1, 1))`` with the gradients above."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, s: Tensor) -> Tensor:
        v = w / s
        ctx.save_for_backward(v)
        return torch.round(v.clamp(-1, 1)) * s

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (v,) = ctx.saved_tensors
        inside = v.abs() <= 1
        step = torch.where(inside, torch.round(v) - v, torch.sign(v))
        return g * inside, (g * step).sum() / math.sqrt(v.numel())


class LSQLayer(TernaryLayer):
    def __init__(self, node: Node, weight: np.ndarray, bias: np.ndarray | None):
        super().__init__(node, weight, bias)
        self.size = nn.Parameter((2 * self.weight.detach().abs().mean()).clamp(min=1e-8))

    def ternary(self) -> tuple[Tensor, Tensor]:
        s = self.size.abs().clamp(min=1e-8)  # a step of the optimiser may carry it through 0
        return LearnedStep.apply(self.weight, s), s.detach().expand(len(self.weight))


@dataclass(frozen=True)
class LSQ(Ternariser):
    """Ternary weights whose step is learnt."""

    name: ClassVar[str] = "lsq"
    stages: ClassVar[tuple[Stage, ...]] = (Stage("lsq", 1.0, 2e-3),)
    paper: ClassVar[Paper] = Paper(
        "esser2020learned", "Learned Step Size Quantization",
        "Esser, Steven K. and McKinstry, Jeffrey L. and Bablani, Deepika and Appuswamy, Rathinakumar and Modha, Dharmendra S.",
        "ICLR", 2020, "https://arxiv.org/abs/1902.08153",
    )  # fmt: skip

    def layer(self, node: Node, weight: np.ndarray, bias: np.ndarray | None) -> TernaryLayer:
        return LSQLayer(node, weight, bias)
