"""Plain residual convolution: y = act(x + norm(conv_k(act(norm(conv_k(x)))))); the basic block of ResNet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from netwright.core.paper import Paper
from netwright.design.blocks.block import Block, act, conv, norm


@dataclass(frozen=True)
class Conv(Block):
    """Two k x k convolutions and a shortcut. Has no hidden layer of its own: `expansion` is ignored."""

    name: ClassVar[str] = "conv"
    paper: ClassVar[Paper] = Paper(
        "he2016resnet", "Deep Residual Learning for Image Recognition",
        "He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian", "CVPR", 2016, "https://arxiv.org/abs/1512.03385",
    )  # fmt: skip
    kernel: int = 3
    expansion: int = 1
    norm: str = "batch"
    act: str = "relu"

    def build(self, dim: int) -> nn.Module:
        return ConvModule(self, dim)


class ConvModule(nn.Module):
    def __init__(self, c: Conv, dim: int):
        super().__init__()
        bias = c.norm == "none"
        self.conv1, self.norm1 = conv(dim, dim, c.kernel, bias=bias), norm(c.norm, dim)
        self.conv2, self.norm2 = conv(dim, dim, c.kernel, bias=bias), norm(c.norm, dim)
        self.act = act(c.act)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.norm2(self.conv2(self.act(self.norm1(self.conv1(x))))))
