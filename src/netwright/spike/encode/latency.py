"""Latency coding, time to first spike: every value fires once, the larger the earlier.

    t = round( (T - 1) (1 - |x|) ),    s_t = sign(x);    no spike where |x| <= threshold;    |x| <= 1

Linear in the value, as Rueckauer and Liu 2018 decode it; a value is told by when it arrives, so T steps tell T values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from netwright.core.paper import Paper
from netwright.spike.encode.encoder import Encoder, unit


@dataclass(frozen=True)
class Latency(Encoder):
    """One spike at most; values up to `threshold` stay silent."""

    threshold: float = 0.0

    name: ClassVar[str] = "latency"
    paper: ClassVar[Paper] = Paper(
        "rueckauer2018ttfs", "Conversion of Analog to Spiking Neural Networks Using Sparse Temporal Coding",
        "Rueckauer, Bodo and Liu, Shih-Chii", "ISCAS", 2018, "https://doi.org/10.1109/ISCAS.2018.8351295",
    )  # fmt: skip

    def code(self, calibration: Tensor) -> tuple[float, int, int]:
        return unit(calibration)

    def encode(self, x: Tensor, steps: int, generator: torch.Generator | None = None) -> Tensor:
        size = x.abs()
        first = torch.round((steps - 1) * (1 - size))
        time = torch.arange(steps, dtype=x.dtype, device=x.device).reshape(-1, *[1] * x.dim())
        return ((time == first) & (size > self.threshold)) * torch.sign(x)
