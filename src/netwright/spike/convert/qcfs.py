"""Quantisation clip-floor-shift: train the float network with what its neurons will be able to say, then convert.

    forward   a = lambda clip(floor(z L / lambda + 1/2) / L, 0, 1)         at every rectified point; L levels
    backward  da/dz = 1 for -lambda/(2L) < z < lambda - lambda/(2L), else 0;   floor is passed straight through
              da/dlambda follows from the same formula
    convert   theta = lambda,   v(0) = theta/2,   the same weights

With the shift of 1/2 and v(0) = theta/2 the expected error of the conversion is zero for every T and L (theorem 2), where
spikes arrive evenly. Bu et al., ICLR 2022 (arXiv 2303.04347), equations 11 to 15.

What differs: lambda starts at a percentile of the calibration activations instead of at 8, since the network is trained
already; max pooling stays (it commutes with the neuron); everything is integer after conversion (see `lower`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from netwright.core.errors import NetwrightError
from netwright.core.graph import Graph, Node
from netwright.core.paper import Paper
from netwright.design.execute import GraphModule
from netwright.design.trace import trace
from netwright.spike.convert.calibrated import Calibrated, Tick, check
from netwright.spike.convert.converter import Fit, Progress, Spiking
from netwright.spike.convert.program import Program
from netwright.spike.convert.quantiles import quantiles
from netwright.spike.convert.read import read

RECTIFIERS = ("relu", "relu6")


class FloorThrough(torch.autograd.Function):
    """floor(x), gradient 1."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.floor()

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        return grads[0]


class ClipFloorShift(nn.Module):
    """The activation, with one learnt lambda for the layer."""

    def __init__(self, start: float, levels: int):
        super().__init__()
        self.levels = levels
        self.threshold = nn.Parameter(torch.tensor(start))

    def forward(self, z: Tensor) -> Tensor:
        codes: Tensor = FloorThrough.apply(z / self.threshold * self.levels + 0.5)
        return self.threshold * (codes / self.levels).clamp(0, 1)


@dataclass(frozen=True)
class QCFS(Calibrated):
    """Clip-floor-shift training.

    Attributes:
        levels: L; the paper uses 4 on CIFAR-10 and 8 on ImageNet.
        share: percentile of the calibration activations that lambda starts from, as a share of 1.
        lr: learning rate handed to `fit`.
    """

    steps: int = 4
    levels: int = 4
    share: float = 0.999
    lr: float = 1e-3

    trains: ClassVar[bool] = True
    name: ClassVar[str] = "qcfs"
    paper: ClassVar[Paper] = Paper(
        "bu2022optimal", "Optimal ANN-SNN Conversion for High-accuracy and Ultra-low-latency Spiking Neural Networks",
        "Bu, Tong and Fang, Wei and Ding, Jianhao and Dai, PengLin and Yu, Zhaofei and Huang, Tiejun", "ICLR", 2022,
        "https://arxiv.org/abs/2303.04347",
    )  # fmt: skip

    def prepare(self, module: nn.Module, example: Tensor, calibration: Tensor) -> GraphModule:
        """The network to train: `module` with clip-floor-shift activations in the place of its rectifiers."""
        graph = trace(module, example)
        with torch.no_grad():
            size = quantiles(read(graph, self.signed), calibration[: self.images].float(), self.share, channelwise=False)
            seen: dict[str, float] = {}

            def visit(node: Node, out: Tensor) -> None:
                if node.op in RECTIFIERS:
                    seen[node.name] = float(size[node.name][0]) if node.name in size else float(out.max())

            GraphModule(graph).eval()(calibration[: self.images].float(), visit=visit)
        return GraphModule(graph, {name: ClipFloorShift(max(top, 1e-3), self.levels) for name, top in seen.items()})

    def finish(self, trainee: GraphModule) -> Graph:
        """The trained network with every rectifier clipped at its lambda, which becomes the threshold of its neurons."""
        graph, nodes = trainee.to_graph(), []
        for node in graph:
            layer = trainee.layers[node.name.replace(".", "/")] if node.op in RECTIFIERS else None
            if isinstance(layer, ClipFloorShift):
                node = replace(node, op="hardtanh", attrs={"min": 0.0, "max": max(float(layer.threshold.detach()), 1e-6)})
            nodes.append(node)
        return graph.replace(nodes, values=graph.values)

    def thresholds(self, program: Program, calibration: Tensor, tick: Tick) -> Mapping[str, Tensor]:
        sizes = super().thresholds(program, calibration, tick)
        caps = {layer.name: layer.cap for layer in program.neurons}
        return {n: t if (cap := caps[n]) is None else torch.full_like(t, cap) for n, t in sizes.items()}

    def convert(self, module: nn.Module, example: Tensor, calibration: Tensor, progress: Progress | None = None,
                fit: Fit | None = None) -> Spiking:  # fmt: skip
        check(self, calibration)
        if fit is None:
            raise NetwrightError(
                f"{self.name} trains the network before it converts it, and no fit callable was given. Pass fit=..."
            )
        trainee = fit(self.prepare(module, example, calibration), stage=self.name, share=1.0, lr=self.lr, weight_decay=0.0)
        assert isinstance(trainee, GraphModule)
        return self.lower(read(self.finish(trainee.eval()), self.signed), calibration.to(torch.float32), progress)
