"""DeepMAD's entropy: how much a network can express, in closed form from its widths, kernels and depth.

    w_l = c_l k_l^2 / g_l                                 width of layer l: input channels, kernel area, groups
    H_i = log(r_i^2 c_i) * sum_(l up to the end of stage i) log w_l       r_i^2 positions, c_i channels at the end of stage i
    score = sum_i a_i H_i,     a = 1, ..., 1, `last`
    effectiveness: rho = L / (prod_l w_l)^(1/L)           depth by mean width; the paper keeps rho of convolutions at 0.5 or less

Layers are those on the path from input to output with the most sum of log w (the body of a residual block, not its shortcut):
convolutions, or linear layers where there is no convolution. A stage is a run of layers of one number of positions.
Nothing is drawn and no value is read: initialisation, batch and seed do not matter.

Shen et al., DeepMAD: Mathematical Architecture Design for Deep Convolutional Neural Network, CVPR 2023. Differs: the penalty for
stages of unlike depth is left to the search that needs it; without stages, as in a multilayer perceptron, r^2 is 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from netwright.core.paper import Paper
from netwright.estimate.proxies.proxy import Loss, Proxy


@dataclass(frozen=True)
class Layer:
    """One weighted layer: its width w, the positions r^2 and the channels c of its output."""

    kind: str
    width: int
    positions: int
    channels: int


def layer(node: Any) -> Layer | None:
    """The layer that a node of the autograd graph belongs to."""
    if node.name() == "ConvolutionBackward0":
        weight, groups, spatial = node._saved_weight, node._saved_groups, node._saved_input.shape[2:]
        if node._saved_transposed:
            positions = math.prod(s * t for s, t in zip(spatial, node._saved_stride, strict=True))
            return Layer("conv", weight.shape[0] // groups * weight[0, 0].numel(), positions, weight.shape[1] * groups)
        sides = zip(spatial, weight.shape[2:], node._saved_stride, node._saved_padding, node._saved_dilation, strict=True)
        positions = math.prod((s + 2 * p - d * (k - 1) - 1) // t + 1 for s, k, t, p, d in sides)
        return Layer("conv", weight[0].numel(), positions, weight.shape[0])
    if node.name() in ("AddmmBackward0", "MmBackward0"):
        rows = (node._saved_mat1_sym_sizes if node.name() == "AddmmBackward0" else node._saved_self_sym_sizes)[0]
        inputs, outputs = node._saved_mat2_sym_sizes
        return Layer("linear", inputs, rows, outputs)
    return None


def ordered(root: Any) -> Iterator[Any]:
    """The nodes that `root` depends on and itself, each behind those that it depends on."""
    done, stack = set(), [(root, False)]
    while stack:
        node, ready = stack.pop()
        if ready:
            yield node
        elif node not in done:
            done.add(node)
            stack.append((node, True))
            stack += [(n, False) for n, _ in node.next_functions if n is not None]


def longest(network: nn.Module, x: Tensor) -> list[Layer]:
    """The layers on the path of the most entropy, from the input on; x [1, ...]."""
    network.eval()
    for p in network.parameters():
        p.requires_grad_(True)
    with torch.enable_grad():
        out: Tensor = network(x)
    if out.grad_fn is None:
        return []
    nodes = [(node, layer(node)) for node in ordered(out.grad_fn)]
    kind = "conv" if any(found and found.kind == "conv" for _, found in nodes) else "linear"
    paths: dict[Any, tuple[float, list[Layer]]] = {}
    for node, found in nodes:
        before = [paths[n] for n, _ in node.next_functions if n is not None]
        value, path = max(before, key=lambda p: p[0], default=(0.0, []))
        paths[node] = (value + math.log(found.width), [*path, found]) if found and found.kind == kind else (value, path)
    return paths[out.grad_fn][1]


def effectiveness(path: list[Layer]) -> float:
    """rho of a path of layers; 0 without any."""
    return len(path) / math.exp(sum(math.log(found.width) for found in path) / len(path)) if path else 0.0


@dataclass(frozen=True)
class Entropy(Proxy):
    """Weighted sum of the entropies of the stages.

    Attributes:
        last: weight of the last stage, the others having 1.
    """

    name: ClassVar[str] = "entropy"
    needs = "shape"
    paper: ClassVar[Paper] = Paper(
        "shen2023deepmad", "DeepMAD: Mathematical Architecture Design for Deep Convolutional Neural Network",
        "Shen, Xuan and Wang, Yaohua and Lin, Ming and Huang, Yilun and Tang, Hao and Sun, Xiuyu and Wang, Yanzhi",
        "CVPR", 2023, "https://arxiv.org/abs/2303.02165", "S026",
    )  # fmt: skip
    last: float = 8.0

    def measure(self, network: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> float:
        path = longest(network, x[:1])
        stages = [list(group) for _, group in groupby(path, key=lambda found: found.positions)]
        score, depth = 0.0, 0.0
        for i, stage in enumerate(stages):
            depth += sum(math.log(found.width) for found in stage)
            end = stage[-1]
            score += (self.last if i == len(stages) - 1 else 1.0) * math.log(end.positions * end.channels) * depth
        return score
