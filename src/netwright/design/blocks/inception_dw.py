"""InceptionNeXt block: a depthwise convolution split into identity, square, horizontal and vertical band branches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from netwright.core.paper import Paper
from netwright.design.blocks.block import Block, LayerScale, act, conv, norm


@dataclass(frozen=True)
class InceptionDW(Block):
    """y = x + gamma * W2 act(W1 norm(cat(x_id, dw_3x3(x_hw), dw_1xk(x_w), dw_kx1(x_h)))).

    Each convolved branch takes `branch_ratio` of the channels (paper: 1/8, band k = 11, square 3, expansion 4, GELU).
    """

    name: ClassVar[str] = "inception_dw"
    paper: ClassVar[Paper] = Paper(
        "yu2024inceptionnext", "InceptionNeXt: When Inception Meets ConvNeXt",
        "Yu, Weihao and Zhou, Pan and Yan, Shuicheng and Wang, Xinchao", "CVPR", 2024, "https://arxiv.org/abs/2303.16900",
    )  # fmt: skip
    kernel: int = 11
    expansion: int = 4
    norm: str = "batch"
    act: str = "gelu"
    square: int = 3
    branch_ratio: float = 0.125
    layer_scale: float = 1e-6

    def build(self, dim: int) -> nn.Module:
        return InceptionDWModule(self, dim)


class InceptionDWModule(nn.Module):
    def __init__(self, c: InceptionDW, dim: int):
        super().__init__()
        g = max(1, int(dim * c.branch_ratio))
        self.parts = [dim - 3 * g, g, g, g]
        band = c.kernel // 2
        self.dwconv_hw = conv(g, g, c.square, groups=g, bias=True)
        self.dwconv_w = nn.Conv2d(g, g, (1, c.kernel), padding=(0, band), groups=g)
        self.dwconv_h = nn.Conv2d(g, g, (c.kernel, 1), padding=(band, 0), groups=g)
        self.norm = norm(c.norm, dim)
        self.pwconv1, self.act = conv(dim, c.expansion * dim, 1, bias=True), act(c.act)
        self.pwconv2 = conv(c.expansion * dim, dim, 1, bias=True)
        self.scale = LayerScale(dim, c.layer_scale)

    def forward(self, x: Tensor) -> Tensor:
        x_id, x_hw, x_w, x_h = torch.split(x, self.parts, dim=1)
        y = torch.cat((x_id, self.dwconv_hw(x_hw), self.dwconv_w(x_w), self.dwconv_h(x_h)), dim=1)
        return x + self.scale(self.pwconv2(self.act(self.pwconv1(self.norm(y)))))
