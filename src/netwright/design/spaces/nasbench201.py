"""NAS-Bench-201's space: three stages of five cells of four nodes, whose six edges hold an operator each, 5^6 = 15,625 networks.

    stem | 5 cells, C | block to 2C, stride 2 | 5 cells | block to 4C, stride 2 | 5 cells | norm, relu, mean | linear

o is none (0), skip_connect (x), nor_conv_1x1 or nor_conv_3x3 (relu, convolution, batch norm), or avg_pool_3x3; the cells are
alike (`netwright.design.blocks.cell` has the sum along the edges). A block is two relu-convolution-norms beside an
average pooling with a 1x1 convolution. C = 16. Weights start as PyTorch's layers do.

Dong and Yang, NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search, ICLR 2020. Numbers of parameters
are those of NAS-Bench-Suite-Zero (the first table of the benchmark counts 0.006 million more).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.core.space import Space
from netwright.design.blocks.cell import Cell, Operators
from netwright.design.spaces.cells import CellOptions

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
KERNELS = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}


@dataclass(frozen=True)
class Cells(Operators):
    """One network; its operators may be domains (then it is a space)."""

    shape: tuple[int, int, int]
    classes: int
    width: int
    depth: int

    def build(self) -> nn.Module:
        """The network, [N, C, H, W] -> [N, classes]."""
        return CellNet(self)


def relu_conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """Halves the sides and doubles the channels."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.body = nn.Sequential(relu_conv(inputs, outputs, 3, 2), relu_conv(outputs, outputs, 3))
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.shortcut(x) + self.body(x)
        return y


class CellNet(nn.Module):
    def __init__(self, config: Cells):
        super().__init__()
        c = config
        self.stem = nn.Sequential(nn.Conv2d(c.shape[0], c.width, 3, padding=1, bias=False), nn.BatchNorm2d(c.width))
        stages: list[nn.Module] = []
        for i, width in enumerate((c.width, 2 * c.width, 4 * c.width)):
            stages += [Residual(width // 2, width)] if i else []
            stages += [Cell(c, lambda name, width=width: self.operator(name, width)) for _ in range(c.depth)]  # type: ignore[misc]
        self.cells = nn.Sequential(*stages)
        self.last = nn.Sequential(nn.BatchNorm2d(4 * c.width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(4 * c.width, c.classes)

    @staticmethod
    def operator(name: str, width: int) -> nn.Module | None:
        if name == "avg_pool_3x3":
            return nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        return relu_conv(width, width, KERNELS[name]) if name in KERNELS else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.last(self.cells(self.stem(x))))
        return y


@dataclass(frozen=True)
class NASBench201(CellOptions):
    """The space; the defaults are the benchmark's networks.

    Attributes:
        width: channels of the first stage; the others have twice and four times as many.
        depth: cells a stage.
        operations: that an edge may have.
    """

    name: ClassVar[str] = "nasbench201"
    benchmark: ClassVar[str] = "NAS-Bench-201"
    known: ClassVar[tuple[str, ...]] = OPERATIONS
    paper: ClassVar[Paper] = Paper(
        "dong2020nasbench201", "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search",
        "Dong, Xuanyi and Yang, Yi", "ICLR", 2020, "https://arxiv.org/abs/2001.00326",
    )  # fmt: skip
    width: int = 16
    depth: int = 5
    operations: tuple[str, ...] = OPERATIONS

    def space(self, shape: tuple[int, int, int], classes: int) -> Space:
        """The space for images of `shape` (C, H, W), sides multiples of 4.

        Raises:
            NetwrightError: other sides.
        """
        if shape[1] % 4 or shape[2] % 4:
            raise NetwrightError(
                f"The space {self.name!r} halves the image twice: sides must be multiples of 4, got {shape[1:]}. Pad or resize."
            )
        return Space(self.name, Cells(**self.edges, shape=shape, classes=classes, **self.common()))

    def probe(self, kind: str) -> nn.Module:
        return Cells(**self.alone(kind), shape=(1, 8, 8), classes=2, width=4, depth=1).build()
