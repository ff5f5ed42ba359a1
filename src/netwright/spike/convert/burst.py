"""Burst spikes: a neuron may send up to Gamma spikes in one step, so that it catches up with what it could not send.

    s = clip(floor(v / theta), 0, Gamma),    v <- v - theta s

Thresholds and initial potentials as in `channel`. Li and Zeng 2022 (equations 6 to 8, Gamma = 5); their lateral inhibition,
for max pooling of spikes, is not needed where pooling stands before the neuron. A burst costs its number of spikes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from netwright.core.paper import Paper
from netwright.spike.convert.calibrated import Seen
from netwright.spike.convert.channel import ChannelPercentile
from netwright.spike.convert.lower import Settings


@dataclass(frozen=True)
class Burst(ChannelPercentile):
    """`most` is Gamma, at most 127."""

    most: int = 5

    name: ClassVar[str] = "burst"
    paper: ClassVar[Paper] = Paper(
        "li2022burst", "Efficient and Accurate Conversion of Spiking Neural Network with Burst Spikes",
        "Li, Yang and Zeng, Yi", "IJCAI", 2022, "https://arxiv.org/abs/2204.13271",
    )  # fmt: skip

    def settle(self, seen: Seen) -> Settings:
        new = super().settle(seen)
        return new if seen.layer.signed else Settings(new.theta, new.v0, new.bias, "burst", self.most)
