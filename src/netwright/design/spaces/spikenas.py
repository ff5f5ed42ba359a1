"""SpikeNAS-Bench space: cells of four nodes whose six edges hold a spiking operator each, 5^6 = 15,625 networks.

    x1 = o01(x0),   x2 = o02(x0) + o12(x1),   x3 = o03(x0) + o13(x1) + o23(x2)

o is none (0), skip (x), or low, middle, high: a neuron of threshold 0.5, 1 or 1.5, a 3x3 convolution and batch norm, in that
order. Around the two cells, which are alike, stand, for CIFAR-10: a stem (convolution, norm; 128 channels), a neuron with a
convolution to twice the channels and average pooling, a last neuron, average pooling, and two linear layers with a neuron
between them, whose outputs are averaged over `cluster` numbers a class and over T = 5 steps. The paper's neurons are LIF with
hard reset and tau = 4/3.

Sun et al., SpikeNAS-Bench: Benchmarking NAS Algorithms for Spiking Neural Network Architecture, IEEE TAI 2025. Numbers of
parameters are those of its table for every architecture. Its number of an architecture has the operators as digits to base 5,
edges 01, 02, 03, 12, 13, 23 from the least significant on.

Which neuron stands in the network is not the space's business: `neuron` makes one for a threshold. Without it the network is
the twin in rates, one pass of clip(x / threshold, 0, 1), which trains as usual and converts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.core.space import Arch, Space
from netwright.design.blocks.cell import EDGES, Cell, Operators
from netwright.design.spaces.cells import CellOptions

MakeNeuron = Callable[[float], nn.Module]
OPERATIONS = ("none", "skip", "low", "middle", "high")
THRESHOLDS = {"low": 0.5, "middle": 1.0, "high": 1.5}
LARGEST = 32  # side behind the stem


class Rate(nn.Module):
    """clip(x / threshold, 0, 1): how often an integrate-and-fire neuron sends under a constant current x."""

    def __init__(self, threshold: float):
        super().__init__()
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        return F.hardtanh(x, 0.0, self.threshold) / self.threshold

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}"


class OverTime(nn.Module):
    """A neuron for [T, N, ...] where the steps are part of the batch, [T*N, ...]."""

    def __init__(self, neuron: nn.Module, steps: int):
        super().__init__()
        self.neuron, self.steps = neuron, steps

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.neuron(x.unflatten(0, (self.steps, -1)))
        return y.flatten(0, 1)


@dataclass(frozen=True)
class Cells(Operators):
    """One network; its operators may be domains (then it is a space)."""

    shape: tuple[int, int, int]
    classes: int
    width: int
    hidden: int
    cluster: int
    steps: int
    neuron: MakeNeuron | None

    def build(self) -> nn.Module:
        """The network, [N, C, H, W] -> [N, classes]."""
        return CellNet(self)

    def fire(self, threshold: float) -> nn.Module:
        return Rate(threshold) if self.neuron is None else OverTime(self.neuron(threshold), self.steps)

    def cell(self, width: int) -> Cell:
        def make(name: str) -> nn.Module | None:
            if (threshold := THRESHOLDS.get(name)) is None:
                return None
            conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
            return nn.Sequential(self.fire(threshold), conv, nn.BatchNorm2d(width))

        return Cell(self, make)


class CellNet(nn.Module):
    def __init__(self, config: Cells):
        super().__init__()
        c = config
        self.steps, self.cluster = 1 if c.neuron is None else c.steps, c.cluster
        stride, sides = 1, c.shape[1:]
        while max(sides) > LARGEST:
            stride, sides = 2 * stride, (-(-sides[0] // 2), -(-sides[1] // 2))
        self.stem = nn.Sequential(nn.Conv2d(c.shape[0], c.width, 3, stride, 1, bias=False), nn.BatchNorm2d(c.width))
        self.cell1 = c.cell(c.width)
        self.down = nn.Sequential(
            nn.BatchNorm2d(c.width), c.fire(1.0), nn.Conv2d(c.width, 2 * c.width, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * c.width), nn.AvgPool2d(2),
        )  # fmt: skip
        self.cell2 = c.cell(2 * c.width)
        self.last = nn.Sequential(nn.BatchNorm2d(2 * c.width), c.fire(1.0), nn.AvgPool2d(2))
        features = 2 * c.width * (sides[0] // 4) * (sides[1] // 4)
        self.hidden = nn.Sequential(nn.Dropout(0.5), nn.Linear(features, c.hidden, bias=False), c.fire(1.0))
        self.head = nn.Linear(c.hidden, c.cluster * c.classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight, a=2)
            elif isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, 0, 0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.steps > 1:
            x = x.repeat(self.steps, 1, 1, 1)
        x = self.last(self.cell2(self.down(self.cell1(x))))
        groups = (-1, self.cluster)  # the mean of a class's outputs is one output of mean weights, which is one layer fewer
        weight, bias = (p.unflatten(0, groups).mean(1) for p in (self.head.weight, self.head.bias))
        x = F.linear(self.hidden(x.flatten(1)), weight, bias)
        return x.unflatten(0, (self.steps, -1)).mean(0) if self.steps > 1 else x


@dataclass(frozen=True)
class SpikeNAS(CellOptions):
    """The space; the defaults are the benchmark's network for CIFAR-10.

    Attributes:
        width: channels of the first cell; the second has twice as many.
        hidden: neurons between the linear layers.
        cluster: outputs that are averaged for each class (the benchmark takes 5 from 100 classes on).
        steps: T, where there is a `neuron`.
        neuron: threshold -> module that makes spikes of currents, both [T, N, ...].
        operations: that an edge may have.
    """

    name: ClassVar[str] = "spikenas"
    benchmark: ClassVar[str] = "SpikeNAS-Bench"
    known: ClassVar[tuple[str, ...]] = OPERATIONS
    paper: ClassVar[Paper] = Paper(
        "sun2025spikenasbench", "SpikeNAS-Bench: Benchmarking NAS Algorithms for Spiking Neural Network Architecture",
        "Sun, Gengchen and Liu, Zhengkun and Gan, Lin and Su, Hang and Li, Ting and Zhao, Wenfeng and Sun, Biao",
        "IEEE Transactions on Artificial Intelligence", 2025, "https://doi.org/10.1109/TAI.2025.3534136",
    )  # fmt: skip
    width: int = 128
    hidden: int = 1024
    cluster: int = 10
    steps: int = 5
    neuron: MakeNeuron | None = None
    operations: tuple[str, ...] = OPERATIONS

    def space(self, shape: tuple[int, int, int], classes: int) -> Space:
        """The space for images of `shape` (C, H, W), at least 4 pixels a side; a stem with strides brings them to 32."""
        if min(shape[1:]) < 4:
            raise NetwrightError(f"The space {self.name!r} halves the image twice: it needs 4 pixels a side, got {shape[1:]}.")
        return Space(self.name, Cells(**self.edges, shape=shape, classes=classes, **self.common()))

    def probe(self, kind: str) -> nn.Module:
        return Cells(**self.alone(kind), shape=(1, 8, 8), classes=2, width=4, hidden=8, cluster=2, steps=self.steps,
                     neuron=self.neuron).build()  # fmt: skip

    @classmethod
    def from_number(cls, number: int) -> Arch:
        """The benchmark's architecture of that number, 0 to 15,624.

        Raises:
            NetwrightError: no such number.
        """
        if not 0 <= number < len(OPERATIONS) ** len(EDGES):
            raise NetwrightError(f"SpikeNAS-Bench numbers its architectures 0 to 15624; got {number}.")
        digits = [number // 5**i % 5 for i in range(len(EDGES))]
        return Arch(cls.name, tuple((f"e{a}{b}", OPERATIONS[d]) for (a, b), d in zip(EDGES, digits, strict=True)))

    @staticmethod
    def number(arch: Arch) -> int:
        """The benchmark's number of an architecture."""
        return sum(OPERATIONS.index(arch[f"e{a}{b}"]) * 5**i for i, (a, b) in enumerate(EDGES))
