"""BitNet b1.58, median variant: ternary weights learnt in training.

Forward, per tensor, gamma = median|W| (variant "mean": mean|W|, the first b1.58):

    W_t = round(clamp(W / (gamma + eps), -1, 1)),    y = gamma * (W_t * x_q)

Backward: identity straight through both the rounding and the clamp, ``dL/dW = dL/d(gamma*W_t)``; gamma is a constant of
the step. Activations have 8 bits.

Differs from the paper: the activations' scales are static, one a tensor, chosen in training and fixed afterwards. The
paper scales every token by its own absolute maximum behind a layer norm, which costs a pass over the data and a division
for each input; static scales make inference integer-only. Convolutions are ternarised like linear layers. The median of a
tensor more than half zero is 0: the mean takes its place there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from netwright.compress.codes import Codes
from netwright.compress.compressor import Compressor, Stage
from netwright.compress.plan import WEIGHTED
from netwright.compress.trainee import CodeLayer, Int8Layer, Trainee, ends, float_plan, node_weights
from netwright.core.graph import Node
from netwright.core.paper import Paper
from netwright.design.execute import GraphModule
from netwright.design.trace import trace

Measure = Literal["median", "mean"]


def gamma(w: Tensor, measure: Measure, eps: float) -> Tensor:
    """Scale of a weight tensor, a scalar >= eps."""
    size = w.detach().abs()
    g = size.median() if measure == "median" else size.mean()
    return torch.where(g > eps, g, size.mean()).clamp(min=eps)


def ternary(w: Tensor, g: Tensor) -> Tensor:
    """``round(clamp(w/g, -1, 1))``, gradient 1/g everywhere."""
    v = w / g
    return v + (torch.round(v.clamp(-1, 1)) - v).detach()


class TernaryLayer(CodeLayer):
    """Latent weights, ternary in the forward pass."""

    def __init__(self, node: Node, weight: np.ndarray, bias: np.ndarray | None, measure: Measure, eps: float):
        super().__init__(node, weight, bias)
        self.measure, self.eps = measure, eps

    def effective(self) -> Tensor:
        g = gamma(self.weight, self.measure, self.eps)
        return ternary(self.weight, g) * g

    def codes(self) -> Codes:
        with torch.no_grad():
            g = gamma(self.weight, self.measure, self.eps)
            codes = ternary(self.weight, g).round().to(torch.int8).cpu().numpy()
        return Codes(codes, np.full(len(codes), float(g)), 2)


@dataclass(frozen=True)
class BitNet(Compressor):
    """Ternary weights (2 bits stored), 8-bit activations.

    Attributes:
        measure: median (b1.58 Reloaded, better for small networks) or mean (b1.58).
        eps: floor of gamma.
        keep_first_last: first and last weighted layers in 8 bits (they are few weights and carry much of the accuracy);
            False makes every weight ternary, as the paper does.
    """

    measure: Measure = "median"
    eps: float = 1e-5
    keep_first_last: bool = True

    name: ClassVar[str] = "bitnet"
    form: ClassVar[str] = "ternary"
    stages: ClassVar[tuple[Stage, ...]] = (Stage("ternary", 1.0, 2e-3),)
    paper: ClassVar[Paper] = Paper(
        "nielsen2024bitnet",
        "BitNet b1.58 Reloaded: State-of-the-art Performance Also on Smaller Networks",
        "Jacob Nielsen and Peter Schneider-Kamp",
        "DeLTA",
        2024,
        "https://arxiv.org/abs/2407.09527",
        "S170",
    )

    def prepare(self, module: nn.Module, example: Tensor, calibration: Tensor) -> Trainee:
        """The simulation with latent weights from `module`."""
        p = float_plan(trace(module, example), calibration)
        kept = ends(p.graph) if self.keep_first_last else set()
        layers: dict[str, CodeLayer] = {}
        for node in p.graph:
            if node.op in WEIGHTED:
                w, b = node_weights(p.graph, node)
                ternary = node.name not in kept
                layers[node.name] = TernaryLayer(node, w, b, self.measure, self.eps) if ternary else Int8Layer(node, w, b)
        return Trainee(p, layers, calibration)

    def finish(self, trainee: nn.Module, calibration: Tensor) -> GraphModule:
        assert isinstance(trainee, Trainee)
        return trainee.integerise()
