"""Converter: the role of every method in this folder, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from netwright.core.paper import Paper
from netwright.design.execute import GraphModule

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Spiking:
    """A converted network.

    `module` runs the integer spiking graph, [N, C, H, W] -> logits; `steps` is T and `start` the first step that the
    output counts (delayed evaluation); `thresholds` gives theta [C] of every layer of neurons, in the float network's units.
    """

    module: GraphModule
    steps: int
    start: int
    thresholds: Mapping[str, Tensor]


class Converter:
    """Turns a trained float network into a spiking one from calibration data alone: a frozen dataclass of settings."""

    name: ClassVar[str]
    paper: ClassVar[Paper]
    steps: int

    def convert(self, module: nn.Module, example: Tensor, calibration: Tensor, progress: Progress | None = None) -> Spiking:
        """The spiking form of `module`.

        Args:
            module: any convolutional network of this role's operations, at inference.
            example: an input [1, C, H, W]; only its shape matters.
            calibration: inputs [N, C, H, W] as the network will see them; no labels.

        Raises:
            Unsupported: an operation has no spiking form; names it and its module.
        """
        raise NotImplementedError
