"""Random tickets: a network pruned at random before training, with the right share in each layer.

    uniform:  density of each layer = 1 - sparsity
    ERK:      density of layer l = min(1, e (n_in + n_out + k_h + k_w) / (n_in n_out k_h k_w)),  linear: k_h = k_w = 0
              in the sum and 1 in the product; e such that the whole network has the density 1 - sparsity

Which weights of a layer are kept is drawn once, before training, and never changes. The larger the network, the closer
it comes to the dense one.

Differs from the paper: the ratios that need data (SNIP, GraSP) or come from a dense network are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from netwright.compress.compressor import Stage
from netwright.compress.prune.pruner import Masked, Pruner, layer_weights
from netwright.core.errors import UnknownName
from netwright.core.graph import Graph
from netwright.core.paper import Paper

Ratios = Literal["erk", "uniform"]


def erk(shapes: list[tuple[int, ...]], density: float) -> list[float]:
    """Density of each layer [O, I] or [O, I, kh, kw] so that all together have `density`; none is above 1."""
    sizes = [math.prod(s) for s in shapes]
    raw = [sum(s) / n for s, n in zip(shapes, sizes, strict=True)]
    full: set[int] = set()
    while True:
        rest = [i for i in range(len(shapes)) if i not in full]
        room = density * sum(sizes) - sum(sizes[i] for i in full)
        scale = room / sum(raw[i] * sizes[i] for i in rest) if rest else 0.0
        above = {i for i in rest if scale * raw[i] > 1}
        if not above:
            return [1.0 if i in full else max(0.0, scale * raw[i]) for i in range(len(shapes))]
        full |= above


def draw(network: Masked, sparsity: float, ratios: Ratios, seed: int) -> None:
    """Draw all masks of a network anew, at least one weight in every layer."""
    masks = [network.mask(k) for k in network.masked]
    shapes, density = [tuple(m.shape) for m in masks], 1 - sparsity
    densities = erk(shapes, density) if ratios == "erk" else [density] * len(shapes)
    generator = torch.Generator().manual_seed(seed)
    for mask, share in zip(masks, densities, strict=True):
        keep = torch.zeros(mask.numel(), dtype=torch.bool)
        keep[torch.randperm(mask.numel(), generator=generator)[: max(1, round(share * mask.numel()))]] = True
        mask.copy_(keep.reshape(mask.shape))


@dataclass(frozen=True)
class RandomTicket(Pruner):
    """A random mask before training; give an untrained network. Zeros, not smaller layers.

    Attributes:
        sparsity: share of the weights of convolutions and linear layers that is zero.
        ratios: how it is shared out over the layers, "erk" or "uniform".
        seed: of the mask.
    """

    sparsity: float = 0.8
    ratios: Ratios = "erk"
    seed: int = 0

    name: ClassVar[str] = "random_ticket"
    stages: ClassVar[tuple[Stage, ...]] = (Stage("sparse", 1.0, 2e-3),)
    paper: ClassVar[Paper] = Paper(
        "liu2022unreasonable",
        "The Unreasonable Effectiveness of Random Pruning: Return of the Most Naive Baseline for Sparse Training",
        "Liu, Shiwei and Chen, Tianlong and Chen, Xiaohan and Shen, Li and Mocanu, Decebal Constantin and Wang, Zhangyang and "
        "Pechenizkiy, Mykola",
        "ICLR", 2022, "https://arxiv.org/abs/2202.02643",
    )  # fmt: skip

    def __post_init__(self) -> None:
        self.share("sparsity")
        if self.ratios not in ("erk", "uniform"):
            raise UnknownName("layerwise ratio", self.ratios, ["erk", "uniform"])

    def trainee(self, graph: Graph) -> Masked:
        """With the mask drawn, at least one weight in every layer."""
        found = Masked(graph, layer_weights(graph))
        draw(found, self.sparsity, self.ratios, self.seed)
        return found
