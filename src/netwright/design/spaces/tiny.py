"""Tiny space: staged networks for small images and small devices; block, depth, width, kernel, expansion for each stage.

Batch norm and rectifiers throughout, so that every point is exact in integers; input size decides the stem's stride.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from netwright.core.errors import NetwrightError
from netwright.core.space import Space, choice, ints
from netwright.design import blocks
from netwright.design.models.staged import Stage, Staged
from netwright.design.spaces.options import Options


@dataclass(frozen=True)
class Tiny(Options):
    """Domains of the space. Its size is (blocks x depths x widths x kernels x expansions)^stages."""

    name: ClassVar[str] = "tiny"
    kinds: ClassVar[str] = "blocks"
    stages: int = 3
    blocks: tuple[str, ...] = tuple(blocks.CATALOGUE)
    depths: tuple[int, int] = (1, 2)
    widths: tuple[int, ...] = (16, 24, 32, 48)
    kernels: tuple[int, ...] = (3, 5)
    expansions: tuple[int, ...] = (1, 2, 3)
    working_size: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.stages <= 6:
            raise NetwrightError(f"The space {self.name!r} has 1 to 6 stages, got {self.stages}.")
        for block in self.blocks:
            blocks.CATALOGUE[block]

    def space(self, shape: tuple[int, int, int], classes: int) -> Space:
        """The space for images of `shape` (C, H, W). The stem's stride brings the longer side to `working_size` at most."""
        stride = 1
        while max(shape[1:]) / stride > self.working_size:
            stride *= 2
        stage = Stage(
            block=choice(*self.blocks),
            depth=ints(*self.depths),
            width=choice(*self.widths),
            kernel=choice(*self.kernels),
            expansion=choice(*self.expansions),
        )
        config = Staged((stage,) * self.stages, channels=shape[0], classes=classes, stem_stride=stride)
        return Space(self.name, config)

    def probe(self, kind: str) -> nn.Module:
        return Staged((Stage(kind, 1, 16, 3, 2),), channels=1, classes=2).build()
