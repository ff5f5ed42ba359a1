"""Block: the role of everything in this folder, and the small layers that blocks share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from netwright.core.errors import UnknownName
from netwright.core.paper import Paper

Segments = Mapping[str, Mapping[int, tuple[int, ...]]]


class Block:
    """A shape-preserving building block: a frozen dataclass of hyper-parameters that builds a module for a width.

    Subclasses have at least the fields `kernel` (side of the spatial kernel), `expansion` (hidden width over width; blocks
    without a hidden layer ignore it), `norm` and `act`.
    """

    name: ClassVar[str]
    paper: ClassVar[Paper]

    def build(self, dim: int) -> nn.Module:
        """A module [N, dim, H, W] -> [N, dim, H, W]."""
        raise NotImplementedError


@runtime_checkable
class Segmented(Protocol):
    """A module whose parameters are concatenations: `segments` gives, per parameter and axis, the lengths of the parts.

    Weight sharing then takes the leading slice of every part, instead of one leading slice of the whole.
    """

    segments: Segments


@runtime_checkable
class Fading(Protocol):
    """A module with activations that training fades out: `fade` is a buffer, 0 at the start, 1 when they are gone."""

    fade: Tensor

    def merge(self) -> nn.Module:
        """The equal module with fewer layers; only at fade 1."""
        ...


class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation over the channels of [N, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class LayerScale(nn.Module):
    """A learned factor for each channel, started at `value`; absent (identity) where `value` is 0."""

    def __init__(self, dim: int, value: float):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim, 1, 1), value)) if value else None

    def forward(self, x: Tensor) -> Tensor:
        return x if self.gamma is None else x * self.gamma


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "layer": lambda dim: LayerNorm2d(dim, eps=1e-6),
    "none": lambda dim: nn.Identity(),
}
ACTS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
}


def norm(kind: str, dim: int) -> nn.Module:
    """The normalisation layer `kind` for `dim` channels; raises UnknownName."""
    if kind not in NORMS:
        raise UnknownName("normalisation", kind, NORMS)
    return NORMS[kind](dim)


def act(kind: str) -> nn.Module:
    """The activation layer `kind`; raises UnknownName."""
    if kind not in ACTS:
        raise UnknownName("activation", kind, ACTS)
    return ACTS[kind]()


def conv(dim_in: int, dim_out: int, kernel: int, *, stride: int = 1, groups: int = 1, bias: bool = False) -> nn.Conv2d:
    """A convolution that keeps the size at stride 1."""
    return nn.Conv2d(dim_in, dim_out, kernel, stride, kernel // 2, groups=groups, bias=bias)
