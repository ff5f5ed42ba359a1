"""Staged family: stem, stages of blocks with a downsampling layer between them, head.

Most convolutional backbones are points of this family; `VARIANTS` holds the published ones as data.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from netwright.design import blocks
from netwright.design.blocks.block import act, conv, norm


@dataclass(frozen=True)
class Stage:
    """`depth` blocks of kind `block` at `width` channels; `options` are further fields of the block, as (name, value)."""

    block: Any = "convnext"
    depth: Any = 2
    width: Any = 32
    kernel: Any = 3
    expansion: Any = 4
    options: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Staged:
    """The configuration of one network; any value may be a domain (then it is a space).

    `stem` and `downsample`: "conv" = 3x3 convolution, norm, activation; "patch" = convolution with kernel = stride
    (norm after it in the stem, before it between stages: ConvNeXt). `stem_stride` divides the input's size once,
    every further stage halves it.
    """

    name: ClassVar[str] = "staged"
    stages: tuple[Stage, ...]
    channels: int = 3
    classes: int = 1000
    stem: str = "conv"
    stem_stride: int = 1
    norm: str = "batch"
    act: str = "relu"
    layer_scale: float = 0.0
    head_norm: bool = False

    def build(self) -> nn.Module:
        """The network [N, channels, H, W] -> [N, classes]. Raises UnknownName for a block that is not in the catalogue."""
        return StagedNet(self)


def _reduce(kind: str, c: Staged, dim_in: int, dim_out: int, stride: int, first: bool) -> nn.Sequential:
    bias = c.norm != "batch"
    if kind == "patch":
        layer = nn.Conv2d(dim_in, dim_out, stride, stride, bias=True)
        parts = [("conv", layer), ("norm", norm(c.norm, dim_out))] if first else [("norm", norm(c.norm, dim_in)), ("conv", layer)]
    else:
        layer = conv(dim_in, dim_out, 3 if stride <= 2 else stride + 1, stride=stride, bias=bias)
        parts = [("conv", layer), ("norm", norm(c.norm, dim_out)), ("act", act(c.act))]
    return nn.Sequential(OrderedDict(parts))


class StagedNet(nn.Module):
    def __init__(self, config: Staged):
        super().__init__()
        self.config = config
        c = config
        self.stem = _reduce(c.stem, c, c.channels, c.stages[0].width, c.stem_stride, first=True)
        self.stages = nn.ModuleList()
        previous = None
        for stage in c.stages:
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            if previous is not None:
                layers["down"] = _reduce(c.stem, c, previous, stage.width, 2, first=False)
            cls = blocks.CATALOGUE[stage.block]
            fields = {f.name for f in dataclasses.fields(cls)}
            shared = {
                "kernel": stage.kernel,
                "expansion": stage.expansion,
                "norm": c.norm,
                "act": c.act,
                "layer_scale": c.layer_scale,
            }
            options = {k: v for k, v in shared.items() if k in fields} | dict(stage.options)
            for i in range(stage.depth):
                # The block's kind is in the name: weight sharing keeps one set of weights for each kind.
                layers[f"{stage.block}_{i}"] = cls(**options).build(stage.width)
            self.stages.append(nn.Sequential(layers))
            previous = stage.width
        self.norm = norm(c.norm, c.stages[-1].width) if c.head_norm else nn.Identity()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(c.stages[-1].width, c.classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(self.pool(self.norm(x)).flatten(1))


def _isotropic(block: str, widths: tuple[int, ...], depths: tuple[int, ...], kernel: int, expansion: int = 4,
               options: tuple[tuple[tuple[str, Any], ...], ...] | None = None) -> tuple[Stage, ...]:  # fmt: skip
    options = options or ((),) * len(widths)
    return tuple(Stage(block, d, w, kernel, expansion, o) for w, d, o in zip(widths, depths, options, strict=True))


def _hornet(width: int) -> tuple[Stage, ...]:
    orders = tuple((("order", n), ("scale", 1 / 3)) for n in (2, 3, 4, 5))
    return _isotropic("gnconv", tuple(width << i for i in range(4)), (2, 3, 18, 2), 7, 4, orders)


_MODERN: dict[str, Any] = {
    "stem": "patch",
    "stem_stride": 4,
    "norm": "layer",
    "act": "gelu",
    "layer_scale": 1e-6,
    "head_norm": True,
}
VARIANTS: dict[str, Staged] = {
    "convnext_tiny": Staged(_isotropic("convnext", (96, 192, 384, 768), (3, 3, 9, 3), 7), **_MODERN),
    "convnext_small": Staged(_isotropic("convnext", (96, 192, 384, 768), (3, 3, 27, 3), 7), **_MODERN),
    "hornet_tiny_7x7": Staged(_hornet(64), **_MODERN),
    "hornet_small_7x7": Staged(_hornet(96), **_MODERN),
    **{
        f"digits_{block}": Staged(_isotropic(block, (16, 32), (1, 1), 3, 2), channels=1, classes=10) for block in blocks.CATALOGUE
    },
}
