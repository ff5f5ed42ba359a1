"""A weighted node carried out with given codes, in float: what the integer graph will compute, before rounding."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.compress.codes import Codes
from netwright.core.graph import Node


def signs(x: Tensor) -> Tensor:
    """+1 where x >= 0, else -1: sign(0) = +1."""
    return (x >= 0).to(x.dtype).mul_(2).sub_(1)


def weighted(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution or linear map of `node` with another weight."""
    if node.op == "linear":
        return F.linear(x, weight, bias)
    a = node.attrs
    top, left, bottom, right = a["pads"]
    if (top, left) != (bottom, right):
        x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
    return F.conv2d(x, weight, bias, a["stride"], (top, left), a["dilation"], a["groups"])


class CodedLayer(nn.Module):
    """x -> op(x, scale[o]*codes[o]) + bias, on sign(x) where the codes ask for it."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, node: Node, codes: Codes, bias: np.ndarray | None):
        super().__init__()
        self.node, self.signs = node, codes.signs
        real = codes.codes * codes.scale.reshape(-1, *[1] * (codes.codes.ndim - 1))
        self.register_buffer("weight", torch.from_numpy(real.astype(np.float32)))
        self.register_buffer("bias", None if bias is None else torch.from_numpy(np.array(bias, np.float32)))

    def forward(self, x: Tensor) -> Tensor:
        return weighted(self.node, signs(x) if self.signs else x, self.weight, self.bias)
