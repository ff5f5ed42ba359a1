"""Direct coding: the input is a constant current, the same in every step; only its 8-bit code is quantised.

The first layer's current is therefore computed once and drives its neurons for all T steps (Rueckauer et al. 2017, 2.3.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from netwright.core.paper import Paper
from netwright.spike.encode.encoder import Encoder
from netwright.spike.neurons.integrate_and_fire import IntegrateAndFire


@dataclass(frozen=True)
class Direct(Encoder):
    """Unsigned codes 0..2^bits-1 for inputs that are never negative, else signed and symmetric."""

    name: ClassVar[str] = "direct"
    paper: ClassVar[Paper] = IntegrateAndFire.paper
    bits: int = 8

    def code(self, calibration: Tensor) -> tuple[float, int, int]:
        hi = 2**self.bits - 1 if bool((calibration >= 0).all()) else 2 ** (self.bits - 1) - 1
        lo = 0 if bool((calibration >= 0).all()) else -hi
        return float(calibration.abs().max()) / hi or 1.0, lo, hi

    def encode(self, x: Tensor, steps: int, generator: torch.Generator | None = None) -> Tensor:
        return x.expand(steps, *x.shape)
