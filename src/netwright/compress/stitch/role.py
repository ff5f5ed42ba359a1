"""The role of a method that makes many networks of a few trained ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from netwright.compress.stitch.stitched import Stitched
from netwright.core.paper import Paper


class Stitching(ABC):
    """Joins trained networks with stitching layers."""

    name: ClassVar[str]
    paper: ClassVar[Paper]

    @abstractmethod
    def build(self, anchors: Sequence[nn.Module], calibration: Tensor) -> Stitched:
        """The anchors, stitched; layers start from the calibration inputs [N, ...] of the training split."""
