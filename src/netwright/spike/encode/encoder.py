"""Encoder: the role of everything in this folder."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from netwright.core.paper import Paper


class Encoder:
    """Chooses the integer code of a real-valued input from calibration data."""

    name: ClassVar[str]
    paper: ClassVar[Paper]

    def code(self, calibration: Tensor) -> tuple[float, int, int]:
        """(scale, lo, hi) of ``quantize`` for inputs like `calibration` [N, ...]."""
        raise NotImplementedError
