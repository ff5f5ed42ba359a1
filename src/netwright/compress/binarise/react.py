"""ReActNet: signs with learnt thresholds between rectifiers with learnt shapes, taught by the float network.

    RSign(x)   = sign(x + b[c])                              in front of every binary layer
    RPReLU(x)  = prelu(x - gamma[c]; beta[c]) + zeta[c]      in place of the rectifiers between them

Weights: ``w_b = sign(w)`` with scale mean|w|, a constant, gradient ``g * [|w| <= 1]``; activations: the gradient of ApproxSign.
Two steps: real weights with binary activations first, then both binary from there, without weight decay. The paper's loss is
the distance of output distributions, ``KL(softmax(teacher) || softmax(student))``: give `fit` the float network as teacher.

Differs from the paper: the network is the user's, with its own rectifiers and shortcuts; latent weights start from its
weights; what the thresholds act on has 8 bits, so that inference is integer-only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from netwright.compress.binarise.binariser import Binariser, BinaryLayer, rectified
from netwright.compress.binarise.bireal import BiRealLayer
from netwright.compress.compressor import Stage
from netwright.core.graph import Graph, Node, Spec
from netwright.core.paper import Paper


class ReActLayer(BiRealLayer):
    """Real weights in stage 1, their signs in stage 2."""

    stage: Tensor

    def __init__(self, node: Node, weight: np.ndarray, bias: np.ndarray | None):
        super().__init__(node, weight, bias)
        self.register_buffer("stage", torch.ones((), dtype=torch.int64))

    @property
    def settled(self) -> bool:
        return int(self.stage) == 2

    def binary(self) -> Tensor:
        return super().binary() if self.settled else self.weight / self.per_channel(self.scale)


def react(graph: Graph, binary: set[str], slope: float) -> Graph:
    """RSign in front of the nodes of `binary`, RPReLU in place of the rectifiers between them."""
    changed = rectified(graph, binary)
    params, values, nodes = dict(graph.params), dict(graph.values), []

    def vector(name: str, like: Node, role: str, fill: float, shape: tuple[int, ...]) -> dict[str, str]:
        values[name] = np.full(shape, fill, np.float32)
        params[name] = Spec(shape)
        return {role: name}

    def shift(name: str, source: str, like: Node, key: str) -> Node:
        shape = (1, like.spec.shape[1], *[1] * (len(like.spec.shape) - 2))
        return Node(name, "add", (source,), like.spec, {}, vector(key, like, "other", 0.0, shape), 0, like.path)

    for node in graph:
        if node.name in binary:
            source = graph[node.inputs[0]]
            threshold = shift(f"{node.name}_rsign", source.name, source, f"{node.name}.threshold")
            nodes += [threshold, replace(node, inputs=(threshold.name,))]
        elif node.name in changed:
            before = shift(f"{node.name}_gamma", node.inputs[0], node, f"{node.name}.gamma")
            beta = vector(f"{node.name}.beta", node, "weight", slope, (node.spec.shape[1],))
            bend = Node(f"{node.name}_prelu", "prelu", (before.name,), node.spec, {}, beta, 0, node.path)
            nodes += [before, bend, shift(node.name, bend.name, node, f"{node.name}.zeta")]
        else:
            nodes.append(node)
    return graph.replace(nodes, params=params, values=values)


@dataclass(frozen=True)
class ReAct(Binariser):
    """Binary layers with learnt thresholds, and rectifiers that shift and tilt.

    Attributes:
        slope: beta at the start.
    """

    slope: float = 0.25

    name: ClassVar[str] = "react"
    stages: ClassVar[tuple[Stage, ...]] = (Stage("activations", 0.5, 3e-3, 1e-5), Stage("weights", 0.5, 3e-3))
    paper: ClassVar[Paper] = Paper(
        "liu2020reactnet",
        "ReActNet: Towards Precise Binary Neural Network with Generalized Activation Functions",
        "Liu, Zechun and Shen, Zhiqiang and Savvides, Marios and Cheng, Kwang-Ting",
        "ECCV",
        2020,
        "https://arxiv.org/abs/2003.03488",
    )

    def layer(self, node: Node, weight: np.ndarray, bias: np.ndarray | None) -> BinaryLayer:
        return ReActLayer(node, weight, bias)

    def signed(self, graph: Graph, binary: set[str]) -> Graph:
        return react(graph, binary, self.slope)

    def begin(self, trainee: nn.Module, stage: Stage) -> nn.Module:
        for layer in trainee.modules():
            if isinstance(layer, ReActLayer):
                layer.stage.fill_(1 + self.stages.index(stage))
        return trainee
