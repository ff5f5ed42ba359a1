"""VanillaNet block: a pair of pointwise convolutions whose activation fades out, then a series activation.

    y = norm2(W2 leaky(norm1(W1 x), slope = fade))       fade 0: ReLU ... fade 1: identity, so that W2 W1 is one matrix
    series(y) = norm3(sum_ij a_ij relu(y_ij))            a depthwise k x k convolution after the ReLU (equation 6)

`merge` gives the equal block with one convolution; it is exact at fade 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.design.blocks.block import Block, act, conv


@dataclass(frozen=True)
class Vanilla(Block):
    """Paper: k = 2n + 1 = 7 for the series activation, batch norm, ReLU, no shortcut. `expansion` is ignored."""

    name: ClassVar[str] = "vanilla"
    paper: ClassVar[Paper] = Paper(
        "chen2023vanillanet", "VanillaNet: the Power of Minimalism in Deep Learning",
        "Chen, Hanting and Wang, Yunhe and Guo, Jianyuan and Tao, Dacheng", "NeurIPS", 2023, "https://arxiv.org/abs/2305.12972",
    )  # fmt: skip
    kernel: int = 7
    expansion: int = 1
    norm: str = "batch"
    act: str = "relu"

    def build(self, dim: int) -> nn.Module:
        if self.norm != "batch":
            raise NetwrightError(
                f"the vanilla block merges batch norm into its convolutions; norm = {self.norm!r} cannot be merged"
            )
        return VanillaModule(self, dim)


class SeriesActivation(nn.Module):
    """relu, then a depthwise k x k convolution with batch norm."""

    def __init__(self, dim: int, kernel: int, kind: str):
        super().__init__()
        self.act, self.conv, self.norm = act(kind), conv(dim, dim, kernel, groups=dim), nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(self.act(x)))


class VanillaModule(nn.Module):
    fade: Tensor

    def __init__(self, c: Vanilla, dim: int):
        super().__init__()
        self.conv1, self.norm1 = conv(dim, dim, 1), nn.BatchNorm2d(dim)
        self.conv2, self.norm2 = conv(dim, dim, 1), nn.BatchNorm2d(dim)
        self.series = SeriesActivation(dim, c.kernel, c.act)
        self.register_buffer("fade", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(self.conv1(x))
        y = F.relu(y) + self.fade * (y - F.relu(y))  # leaky ReLU whose slope is a tensor
        return self.series(self.norm2(self.conv2(y)))

    def merge(self) -> nn.Module:
        """One convolution in place of the pair, at inference; raises NetwrightError while the activation is not gone."""
        if float(self.fade) != 1:
            raise NetwrightError(
                f"the activation between the convolutions is still there (fade {float(self.fade):.3g}); merge at fade 1"
            )
        w1, b1 = _fold(self.conv1, self.norm1)
        w2, b2 = _fold(self.conv2, self.norm2)
        merged = nn.Conv2d(self.conv1.in_channels, self.conv2.out_channels, 1, dtype=self.conv1.weight.dtype)
        with torch.no_grad():
            merged.weight.copy_((w2 @ w1)[:, :, None, None])
            merged.bias.copy_(w2 @ b1 + b2)  # type: ignore[union-attr]
        return nn.Sequential(merged, self.series).train(self.training)


def _fold(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight matrix and bias of a pointwise convolution followed by batch norm, in double precision."""
    assert bn.running_mean is not None and bn.running_var is not None
    scale = bn.weight.double() / torch.sqrt(bn.running_var.double() + bn.eps)
    weight = conv.weight[:, :, 0, 0].double() * scale[:, None]
    return weight, bn.bias.double() - bn.running_mean.double() * scale
