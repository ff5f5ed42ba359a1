"""BiPer: binary weights as the sign of a periodic function, learnt in two stages.

    stage 1:  w_b = sin(omega*w)          dL/dw = dL/dw_b * omega*cos(omega*w)
    stage 2:  w_b = sign(sin(omega*w))    dL/dw = dL/dw_b * omega*cos(omega*w)      (identity through the sign)
    y[o] = alpha[o] * conv(sign(a), w_b)[o],   alpha learnt, one an output channel

Activations are signs in both stages, with the gradient of ApproxSign, ``max(0, 2 - 2|a|)``. In training only they are
divided by their standard deviation over (C, H, W) of each sample first; that changes the gradient and not the sign. With
`activations="clipped"` they have the gradient of the plain estimator, ``[|a| <= 1]``, which was better in short trainings.

Differs from the paper: latent weights start from the float network, ``omega*w = arcsin(clip(W/k))``, so that stage 1 begins
near it; alpha is k times what is learnt, which starts at 1, so that a step of Adam is small beside it; in stage 2 the biases
of binary layers are whole numbers of the sum's unit, as they are in the integer graph; depthwise convolutions keep 8 bits by
default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from netwright.compress.binarise.binariser import Binariser, BinaryLayer
from netwright.compress.binarise.estimators import ApproxSign, ClippedSign, NormalisedSign, SignThrough
from netwright.compress.compressor import Stage
from netwright.core.graph import Node
from netwright.core.paper import Paper


def biper(w: Tensor, omega: float, stage: int) -> Tensor:
    """``sin(omega*w)`` in stage 1, its sign in stage 2; gradient ``g * omega * cos(omega*w)`` in both."""
    wave = torch.sin(omega * w)
    return wave if stage == 1 else SignThrough.apply(wave)


def quantisation_error(w: Tensor, omega: float) -> float:
    """``min over c of E (sin(omega*w) - c*sign(sin(omega*w)))^2``; the best c is E|sin|.

    The phase of a large omega is uniform: the error is then 1/2 - 4/pi^2 = 0.095, a fifth of the energy of the sine, where
    the signs of normal weights lose 1 - 2/pi = 36 %.
    """
    wave = torch.sin(omega * w.detach())
    return float(wave.square().mean() - wave.abs().mean() ** 2)


class BiPerLayer(BinaryLayer):
    """Latent weights w [O, ...] and alpha [O] = top * (what is learnt)."""

    stage: Tensor
    top: Tensor

    def __init__(self, node: Node, weight: np.ndarray, bias: np.ndarray | None, method: BiPer):
        top = method.clip * weight.std(axis=tuple(range(1, weight.ndim)), keepdims=True) + 1e-8
        super().__init__(node, np.arcsin(np.clip(weight / top, -0.99, 0.99)) / method.omega, bias)
        self.omega = method.omega
        self.clipped = method.activations == "clipped"
        self.register_buffer("top", torch.from_numpy(top.reshape(-1).astype(np.float32)))
        self.alpha = nn.Parameter(torch.ones(len(weight)))
        self.register_buffer("stage", torch.ones((), dtype=torch.int64))

    @property
    def scale(self) -> Tensor:
        return self.alpha * self.top

    @property
    def settled(self) -> bool:
        return int(self.stage) == 2

    def latent(self) -> Tensor:
        return torch.sin(self.omega * self.weight)

    def binary(self) -> Tensor:
        return biper(self.weight, self.omega, int(self.stage))

    def indicators(self) -> dict[str, float]:
        return {"quantisation error": quantisation_error(self.weight, self.omega)}

    def sign(self, a: Tensor) -> Tensor:
        if self.clipped:
            return ClippedSign.apply(a)
        return (NormalisedSign if self.training else ApproxSign).apply(a)


@dataclass(frozen=True)
class BiPer(Binariser):
    """Binary weights from a periodic function.

    Attributes:
        omega: frequency of the periodic function (the paper's 20).
        clip: float weights are cut at this many standard deviations of their channel where latent weights start.
        activations: gradient of their signs, "normalised" (the paper's) or "clipped".
    """

    omega: float = 20.0
    clip: float = 2.0
    activations: Literal["normalised", "clipped"] = "normalised"

    name: ClassVar[str] = "biper"
    stages: ClassVar[tuple[Stage, ...]] = (Stage("biper-1", 0.15, 6e-3), Stage("biper-2", 0.85, 6e-3))
    paper: ClassVar[Paper] = Paper(
        "vargas2024biper",
        "BiPer: Binary Neural Networks using a Periodic Function",
        "Edwin Vargas and Claudia V. Correa and Carlos Hinojosa and Henry Arguello",
        "CVPR",
        2024,
        "https://arxiv.org/abs/2404.01278",
        "S159",
    )

    def layer(self, node: Node, weight: np.ndarray, bias: np.ndarray | None) -> BinaryLayer:
        return BiPerLayer(node, weight, bias, self)

    def begin(self, trainee: nn.Module, stage: Stage) -> nn.Module:
        number = [s.name for s in self.stages].index(stage.name) + 1
        for layer in trainee.modules():
            if isinstance(layer, BiPerLayer):
                layer.stage.fill_(number)
        return trainee
