"""Learngene pool: one large network is distilled into small ones, whose blocks are stitched into networks of many sizes.

    z_s = T_s(u_s) + c_s ~ z,        L = (1 - w) CE + w tau^2 KL(large || s) + b mean_cuts ||z_s - z||^2 / ||z||^2

u_s are the outputs of an instance's blocks, z those of the blocks at the same depth of the large network, T_s matrices
that are trained along. Two instances are stitched by way of the large network's features, with the matrices learned:

    S_{a->b} = T_b^+ T_a,        bias T_b^+ (c_a - c_b)

In use::

    instances = [pool.instance(small, large, example) for small in (tiny, little)]
    for instance in instances:
        fit(instance, data, recipe, loss=instance.loss)
    stitched = pool.build(instances, calibration)

Differs from the paper: T leads from the small to the large features (the paper: from large to small), so that the target
stands still; one matrix a cut (the paper: at the first and the last block); layers are shared by windows as in `snnet`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.compress.stitch.cuts import Cut, stages
from netwright.compress.stitch.role import Stitching
from netwright.compress.stitch.stitched import Seam, Stitched, outputs
from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.design.execute import GraphModule
from netwright.design.trace import trace


class Instance(nn.Module):
    """A small network [N, ...] -> logits that learns to give the large network's features; `loss` goes to `fit`.

    Attributes:
        network: the small network, a copy of what was given.
        pairs: (its cut, the large network's cut) where features are compared.
        transforms: a linear layer from the channels of the one to those of the other for each of its cuts.
    """

    def __init__(self, small: nn.Module, large: nn.Module, example: Tensor, pool: LearngenePool):
        super().__init__()
        graph, target = trace(small, example), trace(large, example)
        own, wanted = stages(graph), stages(target)
        self.pool = pool
        self.network = GraphModule(graph)
        self._large = (GraphModule(target).eval().requires_grad_(False),)  # in a tuple: it is not trained and not saved
        self.pairs: list[tuple[Cut, Cut]] = []
        for places in own:
            if places in wanted:
                deep, shallow = wanted[places], own[places]
                self.pairs += [(cut, deep[(i + 1) * len(deep) // len(shallow) - 1]) for i, cut in enumerate(shallow)
                               if (i + 1) * len(deep) >= len(shallow)]  # fmt: skip
        if not self.pairs:
            raise NetwrightError(
                "The small and the large network have no cut at the same resolution or number of tokens. "
                "Take networks of one family, traced with the same input."
            )
        self.transforms = nn.ModuleDict({a.node: nn.Linear(a.channels, b.channels) for a, b in self.pairs})
        self._seen: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Any:
        if not self.training:
            return self.network(x)
        logits, own = outputs(self.network, [a.node for a, _ in self.pairs], x)
        with torch.no_grad():
            soft, target = outputs(self._large[0], [b.node for _, b in self.pairs], x)
        gaps = []
        for a, b in self.pairs:
            z = target[b.node].movedim(b.axis, -1)
            gaps.append((self.transforms[a.node](own[a.node].movedim(a.axis, -1)) - z).square().mean() / z.square().mean())
        self._seen = soft, torch.stack(gaps).mean()
        return logits

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """The loss of the module's docstring, for the batch that ran last in training mode."""
        if self._seen is None:
            raise NetwrightError("An instance's loss belongs to a batch: call the instance in training mode first.")
        (soft, gap), self._seen, pool = self._seen, None, self.pool
        tau = pool.temperature
        kl = F.kl_div(F.log_softmax(logits / tau, 1), F.log_softmax(soft / tau, 1), reduction="batchmean", log_target=True)
        return (1 - pool.weight) * F.cross_entropy(logits, y) + pool.weight * tau**2 * kl + pool.blocks * gap


@dataclass(frozen=True)
class LearngenePool(Stitching):
    """`blocks` weighs the features, `weight` and `temperature` are those of the distillation of logits."""

    blocks: float = 1.0
    weight: float = 0.9
    temperature: float = 4.0
    kernel: int = 2
    stride: int = 1

    name: ClassVar[str] = "learngene_pool"
    paper: ClassVar[Paper] = Paper(
        "shi2024building", "Building Variable-sized Models via Learngene Pool",
        "Shi, Boyu and Xia, Shiyu and Yang, Xu and Chen, Haokun and Kou, Zhiqiang and Geng, Xin",
        "AAAI", 2024, "https://arxiv.org/abs/2312.05743", "S236",
    )  # fmt: skip

    def instance(self, small: nn.Module, large: nn.Module, example: Tensor) -> Instance:
        """A small network to be distilled from a trained large one; `example` [1, ...] fixes the shapes.

        Raises:
            NetwrightError: the two have no cut at the same places.
            TraceError: one of them cannot be traced.
        """
        return Instance(small, large, example, self)

    def build(self, anchors: Sequence[nn.Module], calibration: Tensor) -> Stitched:
        """The trained instances, stitched with the matrices they learned.

        Raises:
            NetwrightError: an anchor is no instance, or instances of large networks with other features.
        """
        instances = [a for a in anchors if isinstance(a, Instance)]
        if len(instances) < len(anchors):
            raise NetwrightError("A learngene pool is built of instances: make them with `LearngenePool.instance`, train them.")
        # in the order in which Stitched puts their networks; sorting keeps equals in the order given, there as here
        instances = sorted(instances, key=lambda i: i.network.graph.macs)

        @torch.no_grad()
        def start(seam: Seam) -> tuple[Tensor, Tensor]:
            a = _transform(instances[seam.front].transforms, seam.leaves)
            b = _transform(instances[seam.end].transforms, seam.enters)
            if len(a.weight) != len(b.weight):
                raise NetwrightError(
                    f"Instances {seam.front} and {seam.end} learned features of {len(a.weight)} and {len(b.weight)} channels at "
                    f"{seam.leaves.node} and {seam.enters.node}: distil all instances from one large network."
                )
            back = torch.linalg.pinv(b.weight)
            return back @ a.weight, back @ (a.bias - b.bias)

        return Stitched([i.network for i in instances], calibration, self.kernel, self.stride, start)


def _transform(transforms: nn.ModuleDict | Mapping[str, nn.Module], cut: Cut) -> nn.Linear:
    if cut.node not in transforms:
        raise NetwrightError(f"No matrix was learned at {cut.node}, which the large network does not reach at {cut.places}.")
    layer = transforms[cut.node]
    assert isinstance(layer, nn.Linear)
    return layer
