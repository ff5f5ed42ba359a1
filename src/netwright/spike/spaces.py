"""Spaces of spiking transformers: widths, depths and expansions to choose from; their weights are shared like any other's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.core.space import Space, choice, ints
from netwright.design.spaces.options import Options
from netwright.spike.models.family import LIVELY, Family
from netwright.spike.models.meta_spikeformer import MetaSpikeFormer, SpikeStage
from netwright.spike.models.spikformer import SpikformerV2

LARGEST = 32  # side behind the first convolution


def stride_to(largest: int, shape: tuple[int, int, int]) -> int:
    """The power of two that brings the longer side of (C, H, W) to `largest` at most."""
    stride = 1
    while max(shape[1:]) / stride > largest:
        stride *= 2
    return stride


class SpikingOptions(Options):
    """A space over the configuration of a family."""

    def config(self, shape: tuple[int, int, int], classes: int) -> Family:
        """The family's configuration with domains."""
        raise NotImplementedError

    def space(self, shape: tuple[int, int, int], classes: int) -> Space:
        if min(shape[1:]) < 4:
            raise NetwrightError(f"The space {self.name!r} makes patches of images: it needs 4 pixels a side, got {shape[1:]}.")
        return Space(self.name, self.config(shape, classes))

    def probe(self, kind: str) -> nn.Module:
        space = self.space((1, 8, 8), 2)
        network: nn.Module = space.fill(space.smallest()).build()
        return network


@dataclass(frozen=True)
class SpikformerSpace(SpikingOptions):
    """Spikformers with patches of 2 x 2 pixels (more where the image is larger than 32), heads of 8 channels."""

    name: ClassVar[str] = "spikformer"
    paper: ClassVar[Paper] = SpikformerV2.paper
    widths: tuple[int, ...] = (16, 24, 32)
    depths: tuple[int, int] = (1, 2)
    expansions: tuple[int, ...] = (1, 2)
    steps: int = 4

    def config(self, shape: tuple[int, int, int], classes: int) -> Family:
        return SpikformerV2(
            choice(*self.widths), ints(*self.depths), 8, choice(*self.expansions), (stride_to(LARGEST, shape), 2), 1,
            shape[0], classes, self.steps, LIVELY,
        )  # fmt: skip


@dataclass(frozen=True)
class MetaSpikeFormerSpace(SpikingOptions):
    """Meta-SpikeFormers of a convolution stage and a stage of convolutions or attention, heads of 8 channels."""

    name: ClassVar[str] = "meta-spikeformer"
    paper: ClassVar[Paper] = MetaSpikeFormer.paper
    first: tuple[int, ...] = (8, 16)
    widths: tuple[int, ...] = (16, 24, 32)
    depths: tuple[int, int] = (1, 2)
    expansions: tuple[int, ...] = (1, 2)
    kernels: tuple[int, ...] = (3, 5)
    steps: int = 4

    def config(self, shape: tuple[int, int, int], classes: int) -> Family:
        stage = SpikeStage("conv", 1, choice(*self.first), stride_to(LARGEST, shape), choice(*self.kernels), 2)
        last = replace(stage, kind=choice("transformer", "conv"), depth=ints(*self.depths), width=choice(*self.widths),
                       stride=2, expansion=choice(*self.expansions), head_width=8)  # fmt: skip
        return MetaSpikeFormer((stage, last), 3, shape[0], classes, self.steps, LIVELY)


SPACES = {cls.name: cls for cls in (SpikformerSpace, MetaSpikeFormerSpace)}
