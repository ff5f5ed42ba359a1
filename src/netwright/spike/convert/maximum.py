"""Data-based normalisation: one threshold a layer, the largest activation on the calibration data.

    theta_l = max a_l;     v(0) = 0,  soft reset

No activation is clipped, so many steps end at the float network's answer; the rates are low, and few steps say little.
Diehl et al. 2015, algorithm 2, with reset by subtraction in place of reset to zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from netwright.core.paper import Paper
from netwright.spike.convert.calibrated import Calibrated, Tick
from netwright.spike.convert.program import Program
from netwright.spike.convert.quantiles import quantiles


@dataclass(frozen=True)
class Maximum(Calibrated):
    """The oldest rule, for comparison."""

    start: ClassVar[float] = 0.0

    name: ClassVar[str] = "max"
    paper: ClassVar[Paper] = Paper(
        "diehl2015fast",
        "Fast-classifying, high-accuracy spiking deep networks through weight and threshold balancing",
        "Diehl, Peter U. and Neil, Daniel and Binas, Jonathan and Cook, Matthew and Liu, Shih-Chii and Pfeiffer, Michael",
        "IJCNN", 2015, "https://doi.org/10.1109/IJCNN.2015.7280696",
    )  # fmt: skip

    def thresholds(self, program: Program, calibration: Tensor, tick: Tick) -> Mapping[str, Tensor]:
        return quantiles(program, calibration, 1.0, channelwise=False)
