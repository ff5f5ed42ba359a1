"""Trainee: a float network that computes what its integer form will compute, and can be trained.

Weighted nodes are carried out by layers that know their codes; every point of the plan is rounded to its range on the way
(forward: ``s * clamp(rint(x/s), lo, hi)``; backward: identity inside the range, zero outside).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from netwright.compress.calibrate import check, collect, step_size, subsample
from netwright.compress.coded import weighted
from netwright.compress.codes import Codes, Range, quantise_weights
from netwright.compress.integer import ranges_of, write
from netwright.compress.plan import WEIGHTED, Plan, plan
from netwright.core.graph import Graph, Node
from netwright.design.execute import GraphModule

EVERY, SAMPLES, MOMENTUM = 16, 4096, 0.2  # steps between looks at a range, samples of a look, weight of a look


def round_ste(x: Tensor) -> Tensor:
    """rint(x), gradient 1."""
    return x + (torch.round(x) - x).detach()


class FakeQuantise(torch.autograd.Function):
    """``scale * clamp(rint(x/scale), lo, hi)``; the gradient is 1 inside the range and 0 outside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, lo: int, hi: int) -> Tensor:
        whole = (x / scale).round_()
        codes = whole.clamp(lo, hi)
        ctx.save_for_backward(whole == codes)
        return codes.mul_(scale)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (inside,) = ctx.saved_tensors
        return g * inside, None, None, None


def fake_quantise(x: Tensor, scale: Tensor, lo: int, hi: int) -> Tensor:
    """A float tensor rounded to the codes lo..hi of step `scale` (a scalar tensor)."""
    return FakeQuantise.apply(x, scale, lo, hi)


class WithLoss(torch.autograd.Function):
    """`out` as it is; in the backward pass `loss` gets the gradient 1, as if it were added to the caller's loss."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, loss: Tensor) -> Tensor:
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g, torch.ones((), device=g.device, dtype=g.dtype)


class CodeLayer(nn.Module):
    """A weighted node with latent weights [O, ...] and the node's bias, both trainable."""

    def __init__(self, node: Node, weight: np.ndarray, bias: np.ndarray | None):
        super().__init__()
        self.node = node
        self.weight = nn.Parameter(torch.from_numpy(np.array(weight, np.float32)))
        self.bias = nn.Parameter(torch.from_numpy(np.array(bias, np.float32))) if bias is not None else None

    def per_channel(self, v: Tensor) -> Tensor:
        """[O] shaped to broadcast against the weight."""
        return v.reshape(-1, *[1] * (self.weight.dim() - 1))

    @abstractmethod
    def effective(self) -> Tensor:
        """The weight that the forward pass uses, with the method's gradient."""

    @abstractmethod
    def codes(self) -> Codes:
        """What the weights are in the integer graph."""

    def forward(self, x: Tensor) -> Tensor:
        return weighted(self.node, x, self.effective(), self.bias)


class Int8Layer(CodeLayer):
    """8-bit codes, ``s[o] = max|W[o]| / 127``, identity gradient."""

    def effective(self) -> Tensor:
        top = self.weight.detach().abs().flatten(1).amax(1).clamp(min=1e-12)
        scale = self.per_channel(top / 127)
        return round_ste(self.weight / scale) * scale

    def codes(self) -> Codes:
        return quantise_weights(self.weight.detach().cpu().numpy())


def node_weights(graph: Graph, node: Node) -> tuple[np.ndarray, np.ndarray | None]:
    """Weight and bias of a weighted node."""
    return graph.value(node, "weight"), graph.value(node, "bias") if "bias" in node.weights else None


def ends(graph: Graph) -> set[str]:
    """Names of the first weighted nodes (none before them) and of the last ones (none behind them)."""
    before: set[str] = set()
    behind: set[str] = set()
    for node in graph:
        if any(i in before for i in node.inputs) or any(graph[i].op in WEIGHTED for i in node.inputs):
            before.add(node.name)
    readers = graph.consumers()
    for node in reversed(graph.nodes):
        if any(r.name in behind or r.op in WEIGHTED for r in readers[node.name]):
            behind.add(node.name)
    names = [n.name for n in graph if n.op in WEIGHTED]
    return {n for n in names if n not in before or n not in behind}


class Norm(nn.Module):
    """A layer in place of a batch_norm node."""

    @abstractmethod
    def values(self) -> dict[str, Tensor]:
        """Present values by role: weight, bias, mean, var."""


class Trainee(nn.Module):
    """The simulation: x [N, C, H, W] -> float output, as the integer graph will give it.

    In training mode each range follows the data (a look every 16 steps: the step size with the least squared error on
    this batch, moving average); in evaluation mode the ranges stand.

    Args:
        p: the plan of the float graph.
        layers: node name -> `CodeLayer`; every weighted node must have one.
        calibration: inputs from which the first ranges are taken.
        norms: node name -> a layer of the method's own in place of a batch_norm node.
    """

    scales: Tensor
    step: Tensor

    def __init__(self, p: Plan, layers: Mapping[str, CodeLayer], calibration: Tensor, norms: Mapping[str, Norm] | None = None):
        super().__init__()
        check(calibration)
        self.plan, self.names, self.norms = p, tuple(layers), tuple(norms or {})
        self.body = GraphModule(p.graph, {**layers, **(norms or {})})
        # nodes that write codes at another node's range: inputs of a concatenation
        self._written = frozenset(n for n, root in p.root.items() if p.graph[root].op == "cat")
        self.points = {name: (i, Range(1.0, signed)) for i, (name, signed) in enumerate(p.points.items())}
        self.register_buffer("scales", torch.ones(len(self.points)))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.calibrate(calibration)

    def calibrate(self, calibration: Tensor) -> None:
        """Set all ranges from data, with weights as they are now."""
        training = self.training
        self.eval()
        found = ranges_of(self.plan, collect(self.body, calibration, self.points))
        self.scales.copy_(torch.tensor([found[name].scale for name in self.points]))
        self.train(training)

    @property
    def ranges(self) -> dict[str, Range]:
        return {name: Range(float(self.scales[i]), r.signed) for name, (i, r) in self.points.items()}

    def layer(self, name: str) -> CodeLayer:
        layer = self.body.layers[name.replace(".", "/")]
        assert isinstance(layer, CodeLayer)
        return layer

    def _visit(self, node: Node, out: Tensor) -> Tensor | None:
        root = self.plan.root.get(node.name)
        if root is None or (root != node.name and node.name not in self._written):
            return None
        i, r = self.points[root]
        look = self.training and int(self.step) % EVERY == 0
        if look and root != node.name:
            return None  # the concatenation must see the values unclipped
        if look:
            seen = step_size(subsample(out, SAMPLES), r.lo, r.hi)
            self.scales[i] += MOMENTUM * (seen - self.scales[i])
        return fake_quantise(out, self.scales[i].clone(), r.lo, r.hi)

    def forward(self, x: Tensor) -> Tensor:
        out = self.body(x, visit=self._visit)
        if self.training:
            self.step += 1
        return out

    def follow(self, progress: float) -> None:
        """Say which share of the training is over, in [0, 1]; methods whose estimators change with it read it."""
        for layer in self.modules():
            if isinstance(layer, CodeLayer) and "progress" in layer._buffers:
                layer._buffers["progress"].fill_(progress)  # type: ignore[union-attr]

    def indicators(self) -> dict[str, float]:
        """Means over layers of what the method's paper watches in training, by name."""
        found: dict[str, list[float]] = {}
        for layer in self.modules():
            for name, value in getattr(layer, "indicators", dict)().items() if layer is not self else ():
                found.setdefault(name, []).append(value)
        return {name: sum(values) / len(values) for name, values in found.items()}

    def integerise(self) -> GraphModule:
        """The integer network with the present codes, batch statistics and ranges."""
        graph = self.body.to_graph()
        values = dict(graph.values)
        for name in self.names:
            layer, node = self.layer(name), graph[name]
            values[node.weights["weight"]] = layer.weight.detach().cpu().numpy()
            if layer.bias is not None:
                values[node.weights["bias"]] = layer.bias.detach().cpu().numpy()
        for name in self.norms:
            norm = self.body.layers[name.replace(".", "/")]
            assert isinstance(norm, Norm)
            values |= {graph[name].weights[role]: v.cpu().numpy() for role, v in norm.values().items()}
        codes = {name: self.layer(name).codes() for name in self.names}
        return write(replace(self.plan, graph=graph.replace(graph.nodes, values=values)), codes, self.ranges)


def float_plan(graph: Graph, calibration: Tensor) -> Plan:
    """The plan, with the input unsigned where the calibration data is never negative."""
    return plan(graph, bool(check(calibration).min() >= 0))
