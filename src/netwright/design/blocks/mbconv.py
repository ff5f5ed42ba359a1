"""Inverted residual with linear bottleneck: pointwise expansion, depthwise convolution, linear projection, shortcut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from netwright.core.paper import Paper
from netwright.design.blocks.block import Block, act, conv, norm


@dataclass(frozen=True)
class MBConv(Block):
    """y = x + norm(W2 act(norm(dw_k(act(norm(W1 x)))))); paper: k = 3, expansion 6, batch norm, ReLU6."""

    name: ClassVar[str] = "mbconv"
    paper: ClassVar[Paper] = Paper(
        "sandler2018mobilenetv2", "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
        "Sandler, Mark and Howard, Andrew and Zhu, Menglong and Zhmoginov, Andrey and Chen, Liang-Chieh",
        "CVPR", 2018, "https://arxiv.org/abs/1801.04381",
    )  # fmt: skip
    kernel: int = 3
    expansion: int = 6
    norm: str = "batch"
    act: str = "relu6"

    def build(self, dim: int) -> nn.Module:
        return MBConvModule(self, dim)


class MBConvModule(nn.Module):
    def __init__(self, c: MBConv, dim: int):
        super().__init__()
        hidden, bias = c.expansion * dim, c.norm == "none"
        self.expand, self.norm1 = conv(dim, hidden, 1, bias=bias), norm(c.norm, hidden)
        self.dwconv, self.norm2 = conv(hidden, hidden, c.kernel, groups=hidden, bias=bias), norm(c.norm, hidden)
        self.project, self.norm3 = conv(hidden, dim, 1, bias=bias), norm(c.norm, dim)
        self.act = act(c.act)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm1(self.expand(x)))
        y = self.act(self.norm2(self.dwconv(y)))
        return x + self.norm3(self.project(y))
