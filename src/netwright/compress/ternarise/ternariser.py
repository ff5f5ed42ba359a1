"""What ternary methods share: which layers become ternary, how they are simulated, and what becomes of them.

    y[o] = s[o] * conv(x, w_t)[o],     w_t = -1, 0, +1 from latent weights w

A method says how w becomes w_t, with which gradient, and what the scale s is. Activations have 8 bits.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from netwright.compress.codes import Codes
from netwright.compress.compressor import Compressor
from netwright.compress.plan import WEIGHTED
from netwright.compress.trainee import CodeLayer, Int8Layer, Trainee, ends, float_plan, node_weights
from netwright.core.graph import Node
from netwright.design.execute import GraphModule
from netwright.design.trace import trace


def straight(value: Tensor, v: Tensor) -> Tensor:
    """`value` in the forward pass, the gradient of `v`."""
    return v + (value - v).detach()


class TernaryLayer(CodeLayer):
    """Latent weights, ternary in the forward pass."""

    @abstractmethod
    def ternary(self) -> tuple[Tensor, Tensor]:
        """s * w_t with the method's gradient [O, ...], and s [O]."""

    def effective(self) -> Tensor:
        return self.ternary()[0]

    def codes(self) -> Codes:
        with torch.no_grad():
            weight, scale = self.ternary()
            codes = torch.round(weight / self.per_channel(scale)).to(torch.int8).cpu().numpy()
        return Codes(codes, scale.cpu().numpy().astype(np.float64), 2)


@dataclass(frozen=True)
class Ternariser(Compressor):
    """Ternary weights (2 bits stored), 8-bit activations.

    Attributes:
        keep_first_last: first and last weighted layers in 8 bits (they are few weights and carry much of the accuracy);
            False makes every weight ternary.
    """

    keep_first_last: bool = True

    form: ClassVar[str] = "ternary"

    @abstractmethod
    def layer(self, node: Node, weight: np.ndarray, bias: np.ndarray | None) -> TernaryLayer:
        """The simulation of one layer, from its float weights."""

    def prepare(self, module: nn.Module, example: Tensor, calibration: Tensor) -> Trainee:
        """The simulation with latent weights from `module`."""
        p = float_plan(trace(module, example), calibration)
        kept = ends(p.graph) if self.keep_first_last else set()
        layers: dict[str, CodeLayer] = {}
        for node in p.graph:
            if node.op in WEIGHTED:
                w, b = node_weights(p.graph, node)
                layers[node.name] = Int8Layer(node, w, b) if node.name in kept else self.layer(node, w, b)
        return Trainee(p, layers, calibration)

    def finish(self, trainee: nn.Module, calibration: Tensor) -> GraphModule:
        assert isinstance(trainee, Trainee)
        return trainee.integerise()
