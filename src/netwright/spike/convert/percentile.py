"""Robust normalisation: one threshold a layer, a percentile of its activations over the calibration data.

    theta_l = quantile_p(|a_l|),    a_l over images, channels and pixels;     v(0) = 0,  soft reset

Rueckauer et al. 2017, section 2.2.2 (p = 99.9 %); p = 100 % is the older normalisation by the maximum (`max`). Here the
thresholds carry the norm and the weights stay, which is the same network.
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
class Percentile(Calibrated):
    """`share` is the percentile, as a share of 1."""

    share: float = 0.999
    start: ClassVar[float] = 0.0

    name: ClassVar[str] = "percentile"
    paper: ClassVar[Paper] = Paper(
        "rueckauer2017conversion",
        "Conversion of Continuous-Valued Deep Networks to Efficient Event-Driven Networks for Image Classification",
        "Rueckauer, Bodo and Lungu, Iulia-Alexandra and Hu, Yuhuang and Pfeiffer, Michael and Liu, Shih-Chii",
        "Frontiers in Neuroscience", 2017, "https://doi.org/10.3389/fnins.2017.00682",
    )  # fmt: skip

    def thresholds(self, program: Program, calibration: Tensor, tick: Tick) -> Mapping[str, Tensor]:
        return quantiles(program, calibration, self.share, channelwise=False)
