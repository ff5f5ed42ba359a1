"""BiPer: binary weights as the sign of a periodic function, learnt in two stages.

    stage 1:  w_b = sin(omega*w)          dL/dw = dL/dw_b * omega*cos(omega*w)
    stage 2:  w_b = sign(sin(omega*w))    dL/dw = dL/dw_b * omega*cos(omega*w)      (identity through the sign)
    y[o] = alpha[o] * conv(sign(a), w_b)[o],   alpha learnt, one an output channel

Activations are signs in both stages, with the gradient of ApproxSign, ``max(0, 2 - 2|a|)``. In training only they are
divided by their standard deviation over (C, H, W) of each sample first; that changes the gradient and not the sign.
sign(0) = +1 everywhere. A ReLU that feeds a binary layer becomes Hardtanh: the sign of a rectified value is always +1.

Differs from the paper: latent weights start from the float network, ``omega*w = arcsin(clip(W/k))`` with alpha = k, so
that stage 1 begins near it; in stage 2 the biases of binary layers are whole numbers of the sum's unit, as they are in the
integer graph; what lies between binary layers (residual sums, pooling) has 8 bits, so that inference is integer-only;
layers whose input cannot be made signed (behind a sigmoid, say) keep 8 bits, and so do depthwise convolutions by default.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.compress.coded import signs, weighted
from netwright.compress.codes import Codes
from netwright.compress.compressor import Compressor, Stage
from netwright.compress.plan import ON_CODES, WEIGHTED, Plan, merge_pads, positive
from netwright.compress.trainee import CodeLayer, Int8Layer, Norm, Trainee, ends, float_plan, node_weights
from netwright.core.graph import Graph, Node
from netwright.core.paper import Paper
from netwright.design.execute import GraphModule
from netwright.design.trace import trace


class ApproxSign(torch.autograd.Function):
    """sign(a), sign(0) = +1; gradient ``g * max(0, 2 - 2|a|)``."""

    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        ctx.save_for_backward(a)
        return signs(a)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (a,) = ctx.saved_tensors
        return g * (2 - 2 * a.abs()).clamp_(min=0)


class NormalisedSign(torch.autograd.Function):
    """``ApproxSign(a / s)``, s the standard deviation of each sample: s**2 = var(a) + 1e-5 (n-1 degrees of freedom).

    The forward value is sign(a), whatever s. With h = g * max(0, 2 - 2|a/s|) the gradient, through s too, is
    ``h/s - (a - mean(a)) * sum(h*a) / ((n-1) * s**3)``. One function, because autograd would take four times the passes.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        flat = a.flatten(1)
        n = flat.shape[1]
        mean = flat.mean(1)
        var = (torch.linalg.vector_norm(flat, dim=1) ** 2 - n * mean**2).clamp_(min=0) / max(1, n - 1)
        ctx.save_for_backward(a, mean, torch.rsqrt(var + 1e-5))
        return signs(a)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        a, mean, r = ctx.saved_tensors
        shape, n = (-1, *[1] * (a.dim() - 1)), a[0].numel()
        h = (a.abs() * (-2 * r).view(shape)).add_(2).clamp_(min=0).mul_(g)
        pull = (h * a).flatten(1).sum(1) * r**3 / max(1, n - 1)
        return h.mul_(r.view(shape)).sub_(a * pull.view(shape)).add_((mean * pull).view(shape))


class SignThrough(torch.autograd.Function):
    """sign(v), sign(0) = +1; gradient ``g``."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        return signs(v)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


def biper(w: Tensor, omega: float, stage: int) -> Tensor:
    """``sin(omega*w)`` in stage 1, its sign in stage 2; gradient ``g * omega * cos(omega*w)`` in both."""
    wave = torch.sin(omega * w)
    return wave if stage == 1 else SignThrough.apply(wave)


class BiPerLayer(CodeLayer):
    """Latent weights w [O, ...] and alpha [O]; input read by its sign."""

    stage: Tensor

    def __init__(self, node: Node, weight: np.ndarray, bias: np.ndarray | None, omega: float, clip: float):
        top = clip * weight.std(axis=tuple(range(1, weight.ndim)), keepdims=True) + 1e-8
        super().__init__(node, np.arcsin(np.clip(weight / top, -0.99, 0.99)) / omega, bias)
        self.omega = omega
        self.alpha = nn.Parameter(torch.from_numpy(top.reshape(-1).astype(np.float32)))
        self.register_buffer("stage", torch.ones((), dtype=torch.int64))
        self.whole_bias = True

    def effective(self) -> Tensor:
        return biper(self.weight, self.omega, int(self.stage)) * self.per_channel(self.alpha)

    def forward(self, x: Tensor) -> Tensor:
        sign = NormalisedSign if self.training else ApproxSign
        bias: Tensor | None = self.bias
        if bias is not None and self.whole_bias and int(self.stage) == 2:
            bias = bias + self.alpha * (torch.round(bias / self.alpha) - bias / self.alpha).detach()
        return weighted(self.node, sign.apply(x), self.effective(), bias)

    def codes(self) -> Codes:
        with torch.no_grad():
            codes = signs(torch.sin(self.omega * self.weight)).to(torch.int8).cpu().numpy()
        return Codes(codes, self.alpha.detach().cpu().numpy().astype(np.float64), 1, signs=True)


class WholeNorm(Norm):
    """Batch norm behind a binary layer, with the whole-numbered bias that the integer graph will have.

    ``y = A*(alpha*acc + c) + B = A*alpha*(acc + b)`` with ``b = (A*c + B)/(A*alpha)``. The sums of a binary layer are small (9
    terms in a depthwise 3x3), so rounding b moves y by up to half a sum's step: training must see it. Stage 2 adds
    ``A*alpha*(rint(b) - b)`` as a constant.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, node: Node, graph: Graph, layer: BiPerLayer):
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
        if int(layer.stage) == 1:
            return y
        with torch.no_grad():
            dims = (0, *range(2, x.dim()))
            var, mean = torch.var_mean(x, dims, correction=0) if self.training else (self.var, self.mean)
            a = torch.rsqrt(var + self.eps) * (1.0 if self.weight is None else self.weight)
            b = -a * mean + (0.0 if self.bias is None else self.bias)
            unit = a * layer.alpha
            whole = (b + (0.0 if layer.bias is None else a * layer.bias)) / torch.where(unit == 0, 1.0, unit)
            shift = unit * (torch.round(whole) - whole)
        return y + shift.reshape(-1, *[1] * (x.dim() - 2))

    def values(self) -> dict[str, Tensor]:
        """Present values by role."""
        found = {"weight": self.weight, "bias": self.bias, "mean": self.mean, "var": self.var}
        return {role: v.detach() for role, v in found.items() if v is not None}


def resign(graph: Graph, binary: set[str]) -> Graph:
    """Hardtanh in place of every relu or relu6 whose output reaches a node of `binary` unchanged (or pooled, reshaped)."""
    wanted: set[str] = set()
    for node in reversed(graph.nodes):
        if node.name in binary or (node.name in wanted and node.op in ON_CODES | {"cat", "avg_pool2d"}):
            wanted.update(node.inputs)
    nodes = [
        replace(n, op="hardtanh", attrs={"min": -1.0, "max": 1.0}) if n.name in wanted and n.op in ("relu", "relu6") else n
        for n in graph
    ]
    return graph.replace(nodes)


@dataclass(frozen=True)
class BiPer(Compressor):
    """Binary weights and activations; first and last weighted layers in 8 bits.

    Attributes:
        omega: frequency of the periodic function (the paper's 20).
        clip: float weights are cut at this many standard deviations of their channel where latent weights start.
        keep_first_last: first and last weighted layers in 8 bits, as the paper keeps them in full precision.
        keep_depthwise: depthwise convolutions in 8 bits as well. They are a few per cent of the weights, and with only 9 or
            25 one-bit terms a sum they cost 4 to 6 points of accuracy on small mbconv and convnext networks.
        keep_pointwise: 1x1 convolutions in 8 bits as well; in a ResNet these are the shortcuts.
    """

    omega: float = 20.0
    clip: float = 2.0
    keep_first_last: bool = True
    keep_depthwise: bool = True
    keep_pointwise: bool = False

    name: ClassVar[str] = "biper"
    form: ClassVar[str] = "binary"
    stages: ClassVar[tuple[Stage, ...]] = (Stage("biper-1", 0.3, 6e-3), Stage("biper-2", 0.7, 6e-3))
    paper: ClassVar[Paper] = Paper(
        "vargas2024biper",
        "BiPer: Binary Neural Networks using a Periodic Function",
        "Edwin Vargas and Claudia V. Correa and Carlos Hinojosa and Henry Arguello",
        "CVPR",
        2024,
        "https://arxiv.org/abs/2404.01278",
        "S159",
    )

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
        """The simulation, in stage 1."""
        graph = merge_pads(trace(module, example))
        float_plan(graph, calibration)
        binary = self.binary_nodes(graph)
        p: Plan = float_plan(resign(graph, binary), calibration)
        layers: dict[str, CodeLayer] = {}
        for node in p.graph:
            if node.op in WEIGHTED:
                w, b = node_weights(p.graph, node)
                one_bit = node.name in binary
                layers[node.name] = BiPerLayer(node, w, b, self.omega, self.clip) if one_bit else Int8Layer(node, w, b)
        norms: dict[str, Norm] = {}
        for step in p.steps:
            layer = layers.get(step.head.name)
            if isinstance(layer, BiPerLayer) and step.affine and step.affine[0].op == "batch_norm":
                layer.whole_bias = False  # the norm behind it rounds bias and shift together
                norms[step.affine[0].name] = WholeNorm(step.affine[0], p.graph, layer)
        return Trainee(p, layers, calibration, norms)

    def begin(self, trainee: nn.Module, stage: Stage) -> nn.Module:
        number = [s.name for s in self.stages].index(stage.name) + 1
        for layer in trainee.modules():
            if isinstance(layer, BiPerLayer):
                layer.stage.fill_(number)
        return trainee

    def finish(self, trainee: nn.Module, calibration: Tensor) -> GraphModule:
        assert isinstance(trainee, Trainee)
        return trainee.integerise()
