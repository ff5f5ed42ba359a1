"""BiViT: softmax-aware binarisation of attention, one part of the network after the other.

    linear layers    w_b = sign(w - mean(w)),   y[o] = alpha[o] * sum w_b sign(x),   alpha learnt, at first mean|w|
    scores           s = alpha_s * sign(q) sign(k)'
    attention        A = softmax(s),   B = [A >= theta * max A],  theta = 1/4;   dL/dA = dL/dB
    values           o = alpha_v * B sign(v)

Signs pass ``g * [|x| <= 1]``. Attention and the layers between tokens disturb each other while they become binary, so that the
first stage binarises attention (its products and the layers around them) with the others in real weights, the second all.

Differs from the paper: alpha_s and alpha_v are learnt for each head and start from a least-squares fit to the float network;
latent weights start from its weights; at inference B comes from scores without a softmax (`attention`); kept layers have 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from netwright.compress.binarise.attention import (
    Attention,
    AttentionBinariser,
    Seen,
    Sketch,
    gate_factor,
    gathered,
    projections,
    score_factor,
)
from netwright.compress.binarise.binariser import BinaryLayer
from netwright.compress.binarise.estimators import ClippedSign
from netwright.compress.compressor import Stage
from netwright.compress.plan import merge_pads
from netwright.compress.trainee import Trainee
from netwright.core.graph import Node
from netwright.core.paper import Paper
from netwright.design.trace import trace


class BiViTLayer(BinaryLayer):
    """Centred weights with a learnt scale a row; real weights and inputs until its stage comes."""

    stage: Tensor

    def __init__(self, node: Node, weight: np.ndarray, bias: np.ndarray | None):
        super().__init__(node, weight, bias)
        self.alpha = nn.Parameter(self.mean_size())
        self.first = 1  # the stage from which the layer is binary
        self.register_buffer("stage", torch.full((), 2, dtype=torch.int64))

    @property
    def settled(self) -> bool:
        return int(self.stage) >= self.first

    @property
    def scale(self) -> Tensor:
        return torch.where(self.alpha.abs() < 1e-8, torch.full_like(self.alpha, 1e-8), self.alpha)

    def latent(self) -> Tensor:
        return self.weight - self.weight.flatten(1).mean(1).reshape(-1, *[1] * (self.weight.dim() - 1))

    def binary(self) -> Tensor:
        return ClippedSign.apply(self.latent())

    def effective(self) -> Tensor:
        return super().effective() if self.settled else self.weight

    def sign(self, a: Tensor) -> Tensor:
        return ClippedSign.apply(a) if self.settled else a


@dataclass(frozen=True)
class BiViT(AttentionBinariser):
    """Binary transformers: attention first, then what lies between.

    Attributes:
        threshold: theta, the share of a row's largest attention from which on B is 1.
    """

    threshold: float = 0.25

    name: ClassVar[str] = "bivit"
    stages: ClassVar[tuple[Stage, ...]] = (Stage("attention", 0.5, 3e-3), Stage("all", 0.5, 3e-3))
    paper: ClassVar[Paper] = Paper(
        "he2023bivit",
        "BiViT: Extremely Compressed Binary Vision Transformers",
        "He, Yefei and Lou, Zhenyu and Zhang, Luoming and Liu, Jing and Wu, Weijia and Zhou, Hong and Zhuang, Bohan",
        "ICCV",
        2023,
        "https://arxiv.org/abs/2211.07091",
        "S164",
    )

    def layer(self, node: Node, weight: np.ndarray, bias: np.ndarray | None) -> BinaryLayer:
        return BiViTLayer(node, weight, bias)

    def write(self, sketch: Sketch, a: Attention) -> str:
        scores = sketch.masked(a, sketch.scores(a))
        return sketch.gated(a, sketch.gate(a, scores, self.threshold))

    def fit_attention(self, a: Attention, tensors: Seen) -> dict[str, Tensor]:
        factor, scores = score_factor(a, tensors)
        return {f"{a.name}_scale.other": factor, f"{a.name}.other": gate_factor(a, tensors, scores, self.threshold)}

    def prepare(self, module: nn.Module, example: Tensor, calibration: Tensor) -> Trainee:
        trainee = super().prepare(module, example, calibration)
        around = projections(gathered(merge_pads(trace(module, example))))
        for layer in trainee.modules():
            if isinstance(layer, BiViTLayer):
                layer.first = 1 if layer.node.name in around else 2
        return trainee

    def begin(self, trainee: nn.Module, stage: Stage) -> nn.Module:
        for layer in trainee.modules():
            if isinstance(layer, BiViTLayer):
                layer.stage.fill_(1 + self.stages.index(stage))
        return trainee
