"""Ensemble transfer: the mean of several ways, each weighted by how well it predicts a measurement that it did not see.

    y(a) = sum_m w_m y_m(a),    w_m = e_m^-2 / sum e^-2,    deviation(a)^2 = sum_m w_m (deviation_m(a)^2 + (y_m(a) - y(a))^2)

e_m: the root mean square error of member m with each measurement left out in turn. Stacked regressions (Breiman, 1996) solve for
weights that are not negative; ten measurements do not carry that, hence inverse squared errors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from netwright.core.paper import Paper
from netwright.estimate.latency.kernel import KernelTransfer
from netwright.estimate.latency.method import LatencyEstimate, LatencyMethod
from netwright.estimate.latency.ridge import RidgeTransfer
from netwright.estimate.latency.table import Array, LatencyTable, Rows


@dataclass(frozen=True)
class EnsembleTransfer(LatencyMethod):
    """A weighted mean of members; the first one's features spread the measurements."""

    members: tuple[LatencyMethod, ...] = field(default=(RidgeTransfer(), KernelTransfer()))

    name: ClassVar[str] = "ensemble"
    paper: ClassVar[Paper] = Paper(
        "breiman1996stacked",
        "Stacked Regressions",
        "Leo Breiman",
        "Machine Learning",
        1996,
        "https://doi.org/10.1007/BF00117832",
    )

    def features(self, table: LatencyTable) -> Array:
        return self.members[0].features(table)

    def estimate(self, table: LatencyTable, rows: Rows, us: Array) -> LatencyEstimate:
        found = [m.estimate(table, rows, us) for m in self.members]
        weights = np.array([1 / max(e.error, 1e-9) ** 2 for e in found])
        weights /= weights.sum()
        mean = np.einsum("m,mn->n", weights, np.stack([e.us for e in found]))
        spread = np.stack([e.deviation**2 + (e.us - mean) ** 2 for e in found])
        error = float(np.sqrt(weights @ np.array([e.error**2 for e in found])))
        ratios = np.einsum("m,mn->n", weights, np.stack([e.ratios for e in found]))
        return LatencyEstimate(mean, np.sqrt(np.einsum("m,mn->n", weights, spread)), error, ratios)
