"""Recursive gated convolution of HorNet, any order, in HorNet's block.

    [p_0, q_0, ..., q_{n-1}] = W_in x          p_0, q_0: C/2^(n-1) channels; q_k: C/2^(n-1-k)
    p_1     = p_0 * f_0(q_0)                   f: one depthwise convolution over all q, scaled by s
    p_{k+1} = g_k(p_k) * f_k(q_k)              g_k: pointwise, doubles the channels
    gnconv(x) = W_out p_n

Paper: equations 3.4-3.6 (f_k / alpha there is the fixed scale s here, as in the official code).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.design.blocks.block import Block, LayerScale, Segments, act, conv, norm


@dataclass(frozen=True)
class GnConv(Block):
    """x = x + gamma1 * gnconv(norm(x)); y = x + gamma2 * W2 act(W1 norm(x)); paper: k = 7, expansion 4, orders 2 to 5."""

    name: ClassVar[str] = "gnconv"
    paper: ClassVar[Paper] = Paper(
        "rao2022hornet", "HorNet: Efficient High-Order Spatial Interactions with Recursive Gated Convolutions",
        "Rao, Yongming and Zhao, Wenliang and Tang, Yansong and Zhou, Jie and Lim, Ser-Nam and Lu, Jiwen",
        "NeurIPS", 2022, "https://arxiv.org/abs/2207.14284", "S001",
    )  # fmt: skip
    kernel: int = 7
    expansion: int = 4
    norm: str = "layer"
    act: str = "gelu"
    order: int = 3
    scale: float = 1.0
    layer_scale: float = 1e-6

    def build(self, dim: int) -> nn.Module:
        if self.order < 1 or dim % 2 ** (self.order - 1):
            raise NetwrightError(
                f"gnconv of order {self.order} halves its channels {self.order - 1} times; {dim} channels cannot be. "
                f"Use a multiple of {2 ** (self.order - 1)} or a lower order."
            )
        return HorBlock(self, dim)


class RecursiveGatedConv(nn.Module):
    """The operation itself, [N, C, H, W] -> [N, C, H, W]."""

    def __init__(self, dim: int, order: int, kernel: int, scale: float):
        super().__init__()
        self.dims = [dim >> (order - 1 - k) for k in range(order)]
        self.scale = scale
        self.proj_in = conv(dim, 2 * dim, 1, bias=True)
        self.dwconv = conv(sum(self.dims), sum(self.dims), kernel, groups=sum(self.dims), bias=True)
        self.pws = nn.ModuleList(conv(a, b, 1, bias=True) for a, b in zip(self.dims, self.dims[1:], strict=False))
        self.proj_out = conv(dim, dim, 1, bias=True)
        gates = tuple(self.dims)
        self.segments: Segments = {
            "proj_in.weight": {0: (gates[0], *gates)},
            "proj_in.bias": {0: (gates[0], *gates)},
            "dwconv.weight": {0: gates},
            "dwconv.bias": {0: gates},
        }

    def forward(self, x: Tensor) -> Tensor:
        p, q = torch.split(self.proj_in(x), [self.dims[0], sum(self.dims)], dim=1)
        q = self.dwconv(q)
        if self.scale != 1:
            q = q * self.scale
        gates = torch.split(q, self.dims, dim=1)
        p = p * gates[0]
        for g, gate in zip(self.pws, gates[1:], strict=True):
            p = g(p) * gate
        return self.proj_out(p)


class HorBlock(nn.Module):
    def __init__(self, c: GnConv, dim: int):
        super().__init__()
        self.norm1, self.gnconv = norm(c.norm, dim), RecursiveGatedConv(dim, c.order, c.kernel, c.scale)
        self.norm2 = norm(c.norm, dim)
        self.pwconv1, self.act = conv(dim, c.expansion * dim, 1, bias=True), act(c.act)
        self.pwconv2 = conv(c.expansion * dim, dim, 1, bias=True)
        self.scale1, self.scale2 = LayerScale(dim, c.layer_scale), LayerScale(dim, c.layer_scale)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale1(self.gnconv(self.norm1(x)))
        return x + self.scale2(self.pwconv2(self.act(self.pwconv1(self.norm2(x)))))
