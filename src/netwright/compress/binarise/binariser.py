"""What all binarisers share: which layers become binary, how they are simulated, and what becomes of them.

    y[o] = s[o] * conv(sign(a), w_b)[o],     w_b = -1, +1 from latent weights w

A method says how w becomes w_b, with which gradient; how sign(a) passes its gradient on; and what the scale s is.
sign(0) = +1 everywhere. A ReLU that feeds a binary layer becomes Hardtanh: the sign of a rectified value is always +1. What
lies between binary layers (residual sums, pooling) has 8 bits, so that inference is integer-only; layers whose input cannot
be made signed (behind a sigmoid, say) keep 8 bits.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.compress.binarise.estimators import ShapedSign
from netwright.compress.coded import signs, weighted
from netwright.compress.codes import Codes
from netwright.compress.compressor import Compressor
from netwright.compress.plan import ON_CODES, WEIGHTED, Plan, merge_pads, positive
from netwright.compress.trainee import CodeLayer, Int8Layer, Norm, Trainee, ends, float_plan, node_weights
from netwright.core.graph import Graph, Node
from netwright.design.execute import GraphModule
from netwright.design.trace import trace


class BinaryLayer(CodeLayer):
    """A layer of binary weights that reads the signs of its input."""

    progress: Tensor  # share of the training that is over; for methods whose estimator changes with it

    def __init__(self, node: Node, weight: np.ndarray, bias: np.ndarray | None):
        super().__init__(node, weight, bias)
        self.whole_bias = True
        self.register_buffer("progress", torch.zeros(()))

    @property
    @abstractmethod
    def scale(self) -> Tensor:
        """s [O], not 0."""

    @abstractmethod
    def binary(self) -> Tensor:
        """w_b, with the method's gradient."""

    @abstractmethod
    def sign(self, a: Tensor) -> Tensor:
        """sign(a), with the method's gradient."""

    def latent(self) -> Tensor:
        """What w_b is the sign of."""
        return self.weight

    def mean_size(self) -> Tensor:
        """mean|w| of each output channel [O], without gradient; never 0."""
        return self.weight.detach().abs().flatten(1).mean(1).clamp(min=1e-8)

    @property
    def settled(self) -> bool:
        """Whether w_b is -1 and +1 by now."""
        return True

    def indicators(self) -> dict[str, float]:
        """What the method's paper watches in training, by name; nothing for most."""
        return {}

    def effective(self) -> Tensor:
        return self.binary() * self.per_channel(self.scale)

    def forward(self, x: Tensor) -> Tensor:
        bias: Tensor | None = self.bias
        if bias is not None and self.whole_bias and self.settled:  # as the integer graph will have it
            scale = self.scale
            bias = bias + scale * (torch.round(bias / scale) - bias / scale).detach()
        return weighted(self.node, self.sign(x), self.effective(), bias)

    def codes(self) -> Codes:
        with torch.no_grad():
            codes = signs(self.latent()).to(torch.int8).cpu().numpy()
        return Codes(codes, self.scale.detach().cpu().numpy().astype(np.float64), 1, signs=True)


class SlopedLayer(BinaryLayer):
    """Weights and activations by one estimator, whose slope the method states."""

    @property
    def scale(self) -> Tensor:
        return self.mean_size()

    @abstractmethod
    def slope(self, v: Tensor) -> Tensor:
        """What gradients through the sign are multiplied by at v."""

    def sign(self, a: Tensor) -> Tensor:
        return ShapedSign.apply(a, self.slope(a.detach()))

    def binary(self) -> Tensor:
        return self.sign(self.latent())


class WholeNorm(Norm):
    """Batch norm behind a binary layer, with the whole-numbered bias that the integer graph will have.

    ``y = A*(s*acc + c) + B = A*s*(acc + b)`` with ``b = (A*c + B)/(A*s)``. The sums of a binary layer are small (9
    terms in a depthwise 3x3), so rounding b moves y by up to half a sum's step: training must see it. What is settled adds
    ``A*s*(rint(b) - b)`` as a constant.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, node: Node, graph: Graph, layer: BinaryLayer):
        super().__init__()
        value = {role: torch.from_numpy(np.array(graph.value(node, role), np.float32)) for role in node.weights}
        self.eps = node.attrs["eps"]
        self.weight = nn.Parameter(value["weight"]) if "weight" in value else None
        self.bias = nn.Parameter(value["bias"]) if "bias" in value else None
        self.register_buffer("mean", value["mean"])
        self.register_buffer("var", value["var"])
        self.source = (layer,)  # a tuple: the layer belongs to the graph module, not to this one

    def forward(self, x: Tensor) -> Tensor:
        y = F.batch_norm(x, self.mean, self.var, self.weight, self.bias, self.training, 0.1, self.eps)
        (layer,) = self.source
        if not layer.settled:
            return y
        with torch.no_grad():
            dims = (0, *range(2, x.dim()))
            var, mean = torch.var_mean(x, dims, correction=0) if self.training else (self.var, self.mean)
            a = torch.rsqrt(var + self.eps) * (1.0 if self.weight is None else self.weight)
            b = -a * mean + (0.0 if self.bias is None else self.bias)
            unit = a * layer.scale
            whole = (b + (0.0 if layer.bias is None else a * layer.bias)) / torch.where(unit == 0, 1.0, unit)
            shift = unit * (torch.round(whole) - whole)
        return y + shift.reshape(-1, *[1] * (x.dim() - 2))

    def values(self) -> dict[str, Tensor]:
        """Present values by role."""
        found = {"weight": self.weight, "bias": self.bias, "mean": self.mean, "var": self.var}
        return {role: v.detach() for role, v in found.items() if v is not None}


def rectified(graph: Graph, binary: set[str]) -> set[str]:
    """Every relu or relu6 whose output reaches a node of `binary` unchanged (or pooled, reshaped)."""
    wanted: set[str] = set()
    for node in reversed(graph.nodes):
        if node.name in binary or (node.name in wanted and node.op in ON_CODES | {"cat", "avg_pool2d"}):
            wanted.update(node.inputs)
    return {n.name for n in graph if n.name in wanted and n.op in ("relu", "relu6")}


def resign(graph: Graph, binary: set[str]) -> Graph:
    """Hardtanh in place of every rectifier that would make all signs +1."""
    changed = rectified(graph, binary)
    return graph.replace([replace(n, op="hardtanh", attrs={"min": -1.0, "max": 1.0}) if n.name in changed else n for n in graph])


@dataclass(frozen=True)
class Binariser(Compressor):
    """Binary weights and activations; what is kept has 8 bits.

    Attributes:
        keep_first_last: first and last weighted layers in 8 bits, where papers keep them in full precision.
        keep_depthwise: depthwise convolutions in 8 bits as well. They are a few per cent of the weights, and with only 9 or
            25 one-bit terms a sum they cost 4 to 6 points of accuracy on small mbconv and convnext networks.
        keep_pointwise: 1x1 convolutions in 8 bits as well; in a ResNet these are the shortcuts.
    """

    keep_first_last: bool = True
    keep_depthwise: bool = True
    keep_pointwise: bool = False

    form: ClassVar[str] = "binary"

    @abstractmethod
    def layer(self, node: Node, weight: np.ndarray, bias: np.ndarray | None) -> BinaryLayer:
        """The simulation of one layer, from its float weights."""

    def signed(self, graph: Graph, binary: set[str]) -> Graph:
        """The graph with activations whose signs say something in front of the nodes of `binary`."""
        return resign(graph, binary)

    def binary_nodes(self, graph: Graph) -> set[str]:
        """Weighted nodes that become binary."""
        found = {n.name for n in graph if n.op in WEIGHTED}
        if self.keep_first_last:
            found -= ends(graph)
        if self.keep_depthwise:
            found -= {n.name for n in graph if n.op == "conv2d" and 1 < n.attrs["groups"] == graph[n.inputs[0]].spec.shape[1]}
        if self.keep_pointwise:
            found -= {n.name for n in graph if n.op == "conv2d" and graph.params[n.weights["weight"]].shape[2:] == (1, 1)}
        never_negative = positive(resign(graph, found))
        return {name for name in found if graph[name].inputs[0] not in never_negative}

    def prepare(self, module: nn.Module, example: Tensor, calibration: Tensor) -> Trainee:
        """The simulation, at the start of its first stage."""
        graph = merge_pads(trace(module, example))
        float_plan(graph, calibration)
        binary = self.binary_nodes(graph)
        p: Plan = float_plan(self.signed(graph, binary), calibration)
        layers: dict[str, CodeLayer] = {}
        for node in p.graph:
            if node.op in WEIGHTED:
                w, b = node_weights(p.graph, node)
                one_bit = node.name in binary
                layers[node.name] = self.layer(node, w, b) if one_bit else Int8Layer(node, w, b)
        norms: dict[str, Norm] = {}
        for step in p.steps:
            layer = layers.get(step.head.name)
            if isinstance(layer, BinaryLayer) and step.affine and step.affine[0].op == "batch_norm":
                layer.whole_bias = False  # the norm behind it rounds bias and shift together
                norms[step.affine[0].name] = WholeNorm(step.affine[0], p.graph, layer)
        return Trainee(p, layers, calibration, norms)

    def finish(self, trainee: nn.Module, calibration: Tensor) -> GraphModule:
        assert isinstance(trainee, Trainee)
        return trainee.integerise()
