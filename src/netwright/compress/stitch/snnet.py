"""Stitchable neural networks: trained anchors of one family, and a layer from block to block between neighbours.

    F_S = phi_2 (behind cut m) . S . phi_1 (up to cut l),        S = 1x1 convolution (linear on tokens)
    S starts as M = pinv(A) B,    A [P, C_1] = what phi_1 gives at l,    B [P, C_2] = what phi_2 gives at m

Ways lead from the faster to the slower anchor, between anchors that are neighbours in MACs, and inside a stage from l to
m where both lie in one window (size 2, step 1); the pairs of a window share S. Then all are trained together: every step
takes one way at random, with distillation from the largest anchor::

    stitched = Stitchable().build([small, large], calibration)
    fit(stitched, data, recipe, teacher=large)
    network = stitched.network(stitched.stitches()[3])

Differs from the paper: the cuts come from the traced graphs, so that any pair of networks with a common resolution or
number of tokens can be stitched, residual or not; S starts with a bias, fitted along; the teacher is the largest anchor
(the paper: RegNetY-160); ways that cost as much as the slower anchor are left out; batch statistics are estimated anew
for every way (the paper stitches networks with layer norm, or trains them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from netwright.compress.stitch.role import Stitching
from netwright.compress.stitch.stitched import Stitched
from netwright.core.paper import Paper


@dataclass(frozen=True)
class Stitchable(Stitching):
    """`kernel` and `stride` of the sliding window over the cuts of a stage; 2 and 1 in the paper."""

    kernel: int = 2
    stride: int = 1

    name: ClassVar[str] = "snnet"
    paper: ClassVar[Paper] = Paper(
        "pan2023stitchable", "Stitchable Neural Networks", "Pan, Zizheng and Cai, Jianfei and Zhuang, Bohan",
        "CVPR", 2023, "https://arxiv.org/abs/2302.06586", "S205",
    )  # fmt: skip

    def build(self, anchors: Sequence[nn.Module], calibration: Tensor) -> Stitched:
        """As `Stitched`, with stitching layers from least squares."""
        return Stitched(anchors, calibration, self.kernel, self.stride)
