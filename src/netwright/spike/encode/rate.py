"""Rate coding: every value fires at random, the larger the more often.

    P(s_t = 1) = x,    x in [0, 1];    for signed inputs s_t = sign(x) with probability |x|,    x in [-1, 1]

The steps are independent (Bernoulli), so the mean over T steps has the variance |x| (1 - |x|) / T. The generator is passed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.spike.encode.encoder import Encoder, unit


@dataclass(frozen=True)
class Rate(Encoder):
    """Spikes of 0 and 1 (-1 too for signed inputs)."""

    name: ClassVar[str] = "rate"
    paper: ClassVar[Paper] = Paper(
        "diehl2015unsupervised", "Unsupervised Learning of Digit Recognition Using Spike-Timing-Dependent Plasticity",
        "Diehl, Peter U. and Cook, Matthew", "Frontiers in Computational Neuroscience", 2015,
        "https://doi.org/10.3389/fncom.2015.00099",
    )  # fmt: skip

    def code(self, calibration: Tensor) -> tuple[float, int, int]:
        return unit(calibration)

    def encode(self, x: Tensor, steps: int, generator: torch.Generator | None = None) -> Tensor:
        if generator is None:
            raise NetwrightError("Rate coding draws its spikes: pass the `generator` that it draws them with.")
        drawn = torch.rand((steps, *x.shape), generator=generator, dtype=x.dtype, device=x.device)
        return (drawn < x.abs()) * torch.sign(x)
