"""Nearest device: one known device, scaled, stands for the new one.

    y(a) = p + q x_d(a),     d: the known device with the smallest error over the measurements, each left out in turn

One proxy device is enough where devices rank architectures alike (Lu et al., 2021); it is what the others here must beat.
Differs from the paper: the proxy is chosen among all known devices; it is not adapted when none of them fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from netwright.core.paper import Paper
from netwright.estimate.latency.method import LatencyEstimate, LatencyMethod, known, posterior
from netwright.estimate.latency.table import Array, LatencyTable, Rows


@dataclass(frozen=True)
class NearestDevice(LatencyMethod):
    """The best single known device.

    Attributes:
        noise: variance of a measurement around the line, where measurements have variance 1.
    """

    noise: float = 0.1

    name: ClassVar[str] = "nearest"
    paper: ClassVar[Paper] = Paper(
        "lu2021proxy",
        "One Proxy Device Is Enough for Hardware-Aware Neural Architecture Search",
        "Bingqian Lu and Jianyi Yang and Weiwen Jiang and Yiyu Shi and Shaolei Ren",
        "SIGMETRICS",
        2021,
        "https://arxiv.org/abs/2111.01203",
    )

    def estimate(self, table: LatencyTable, rows: Rows, us: Array) -> LatencyEstimate:
        log = self.domain(table)
        bare = LatencyTable(table.archs, table.devices, table.filled.us)
        found = [posterior(known(bare.only([d]), log), rows, us, self.noise, log) for d in range(len(table.devices))]
        return min(found, key=lambda e: e.error)
