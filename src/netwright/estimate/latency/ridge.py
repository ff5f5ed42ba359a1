"""Ridge transfer: a new device is a mixture of known ones, up to a small penalty on the weights.

    y(a) = b + sum_d w_d x_d(a) + sum_f v_f c_f(a)      x: latencies on known devices, c: counts, standardised

with the penalty ``noise * |w, v|^2`` (ridge regression with the features divided by the root of their number, so that the
penalty means the same for five devices and for fifty). The setting is HELP's (Lee et al., NeurIPS 2021): ten measurements on a
device that was never seen. Differs from HELP: no network is meta-trained; the known devices' latencies of the architecture in
question are read from a table, where HELP predicts from the architecture alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from netwright.core.paper import Paper
from netwright.estimate.latency.method import LatencyEstimate, LatencyMethod, known, posterior
from netwright.estimate.latency.table import Array, LatencyTable, Rows


@dataclass(frozen=True)
class RidgeTransfer(LatencyMethod):
    """Ridge regression on known devices and counts.

    Attributes:
        noise: variance of a measurement around the mixture, where measurements have variance 1.
        log: regress logarithms; by default where the table's latencies span more than a factor 10.
    """

    noise: float = 0.1
    log: bool | None = None

    name: ClassVar[str] = "ridge"
    paper: ClassVar[Paper] = Paper(
        "hoerl1970ridge",
        "Ridge Regression: Biased Estimation for Nonorthogonal Problems",
        "Arthur E. Hoerl and Robert W. Kennard",
        "Technometrics",
        1970,
        "https://doi.org/10.1080/00401706.1970.10488634",
    )

    def domain(self, table: LatencyTable) -> bool:
        return table.wide if self.log is None else self.log

    def estimate(self, table: LatencyTable, rows: Rows, us: Array) -> LatencyEstimate:
        log = self.domain(table)
        return posterior(known(table, log), rows, us, self.noise, log)
