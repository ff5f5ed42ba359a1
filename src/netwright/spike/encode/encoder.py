"""Encoder: the role of everything in this folder.

A coding has two faces: `code` gives the integers that a converted network reads its input as, `encode` the input over time
that a network is trained on.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper


class Encoder:
    """How a real-valued input reaches a spiking network."""

    name: ClassVar[str]
    paper: ClassVar[Paper]

    def code(self, calibration: Tensor) -> tuple[float, int, int]:
        """(scale, lo, hi) of ``quantize`` for inputs like `calibration` [N, ...]."""
        raise NotImplementedError

    def encode(self, x: Tensor, steps: int, generator: torch.Generator | None = None) -> Tensor:
        """x [N, ...], within [-1, 1], over time: [T, N, ...]. Spikes are 0, 1, and -1 where x is negative.

        Args:
            generator: for codings that draw.

        Raises:
            NetwrightError: the coding draws, and there is no generator; or it is one for converted networks alone.
        """
        raise NetwrightError(f"The coding {self.name!r} is made for converted networks. To train, use direct, rate or latency.")


def unit(calibration: Tensor) -> tuple[float, int, int]:
    """One spike is the largest value; inputs that are negative somewhere have spikes of both signs."""
    return float(calibration.abs().max()) or 1.0, 0 if bool((calibration >= 0).all()) else -1, 1
