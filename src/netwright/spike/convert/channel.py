"""Channel-wise percentile thresholds and potentials that start at half of them.

    theta_c = quantile_p(a_c),    v(0) = theta / 2

With v(0) = theta/2 a constant current is rounded to the nearest number of spikes rather than down, which gives the least
expected square error (Bu et al. 2022, theorem 2); a threshold a channel is Kim et al. 2020 (Spiking-YOLO, channel-wise
normalisation). Together they are the strongest of the simple rules, and what a better method has to beat.
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
class ChannelPercentile(Calibrated):
    """`share` is the percentile, as a share of 1."""

    share: float = 0.99

    name: ClassVar[str] = "channel"
    paper: ClassVar[Paper] = Paper(
        "bu2022optimized", "Optimized Potential Initialization for Low-latency Spiking Neural Networks",
        "Bu, Tong and Ding, Jianhao and Yu, Zhaofei and Huang, Tiejun", "AAAI", 2022, "https://arxiv.org/abs/2202.01440",
    )  # fmt: skip

    def thresholds(self, program: Program, calibration: Tensor, tick: Tick) -> Mapping[str, Tensor]:
        return quantiles(program, calibration, self.share, channelwise=True)
