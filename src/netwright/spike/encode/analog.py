"""S-analog coding: the input is a current that flows once, in the first step; nothing comes after it.

The network therefore has a last input, and rests once its corrections have died out; no rate of the input is quantised,
only its 8-bit code. All biases are injected with it, as initial potentials.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from netwright.core.paper import Paper
from netwright.spike.encode.direct import Direct
from netwright.spike.encode.encoder import Encoder


@dataclass(frozen=True)
class Analog(Encoder):
    """Codes as those of `Direct`; what differs is when they flow."""

    name: ClassVar[str] = "analog"
    paper: ClassVar[Paper] = Paper(
        "su2024crnn", "Obtaining Optimal Spiking Neural Network in Sequence Learning via CRNN-SNN Conversion",
        "Su, Jiahao and You, Kang and Xu, Zekai and Xu, Weizhi and He, Zhezhi", "ICANN", 2024, "https://arxiv.org/abs/2408.09403",
        "S225",
    )  # fmt: skip
    bits: int = 8

    def code(self, calibration: Tensor) -> tuple[float, int, int]:
        return Direct(self.bits).code(calibration)

    def encode(self, x: Tensor, steps: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.cat([x[None], x.new_zeros(steps - 1, *x.shape)])
