"""ConvNeXt block: depthwise convolution, norm, pointwise expansion, activation, pointwise projection, shortcut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from netwright.core.paper import Paper
from netwright.design.blocks.block import Block, LayerScale, act, conv, norm


@dataclass(frozen=True)
class ConvNeXt(Block):
    """y = x + gamma * W2 act(W1 norm(dw_k(x))); paper: k = 7, expansion 4, layer norm, GELU, gamma started at 1e-6."""

    name: ClassVar[str] = "convnext"
    paper: ClassVar[Paper] = Paper(
        "liu2022convnext", "A ConvNet for the 2020s",
        "Liu, Zhuang and Mao, Hanzi and Wu, Chao-Yuan and Feichtenhofer, Christoph and Darrell, Trevor and Xie, Saining",
        "CVPR", 2022, "https://arxiv.org/abs/2201.03545",
    )  # fmt: skip
    kernel: int = 7
    expansion: int = 4
    norm: str = "layer"
    act: str = "gelu"
    layer_scale: float = 1e-6

    def build(self, dim: int) -> nn.Module:
        return ConvNeXtModule(self, dim)


class ConvNeXtModule(nn.Module):
    def __init__(self, c: ConvNeXt, dim: int):
        super().__init__()
        self.dwconv = conv(dim, dim, c.kernel, groups=dim, bias=c.norm != "batch")
        self.norm = norm(c.norm, dim)
        self.pwconv1 = conv(dim, c.expansion * dim, 1, bias=True)
        self.act = act(c.act)
        self.pwconv2 = conv(c.expansion * dim, dim, 1, bias=c.norm != "batch")
        # Batch norm after the projection keeps the sum in range where the rest is batch-normed too.
        self.norm2 = norm("batch", dim) if c.norm == "batch" else nn.Identity()
        self.scale = LayerScale(dim, c.layer_scale)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale(self.norm2(self.pwconv2(self.act(self.pwconv1(self.norm(self.dwconv(x)))))))
