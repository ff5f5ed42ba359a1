"""Role: a way from known devices and a few measurements to the latencies of a new device, and what the ways share.

Every regression here is Bayesian and linear in features z(a) [F] of an architecture, with weights ~ N(0, 1):

    y(a) = w . z(a) + e,   e ~ N(0, noise)          y: measured latencies, centred and divided by their deviation
    K = Z Z^T + noise I    mean(a) = z(a) Z^T K^-1 y    var(a) = z(a).z(a) - z(a) Z^T K^-1 Z z(a) + noise
    r_i = (K^-1 y)_i / (K^-1)_ii                    the error of measurement i when it is left out, in closed form
    deviation(a)^2 = var(a) * mean_i r_i^2 (K^-1)_ii

(Rasmussen and Williams, Gaussian processes for machine learning, 2006, equations 2.25, 2.26 and 5.12.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from netwright.core.paper import Paper
from netwright.estimate.latency.table import Array, LatencyTable, Rows, standard

FREE = 9.0


@dataclass(frozen=True)
class LatencyEstimate:
    """Latencies of all N architectures of a table on the new device.

    Attributes:
        us: [N] microseconds.
        deviation: [N] how far off they may be, in microseconds; its scale is a guess from few measurements, to be calibrated.
        error: root mean square error of the measurements, each left out in turn, in microseconds.
        ratios: [n] these errors by the deviations that are predicted without the measurement, without their signs.
    """

    us: Array
    deviation: Array
    error: float
    ratios: Array


class LatencyMethod(ABC):
    """A frozen dataclass with a method's options; `estimate` keeps no state."""

    name: ClassVar[str]
    paper: ClassVar[Paper]

    @abstractmethod
    def estimate(self, table: LatencyTable, rows: Rows, us: Array) -> LatencyEstimate:
        """Latencies on a device on which `rows` [n] of the table took `us` [n] microseconds, n >= 3."""

    def features(self, table: LatencyTable) -> Array:
        """[N, F] in which architectures are compared; `propose` spreads measurements over them."""
        return known(table, self.domain(table))

    def domain(self, table: LatencyTable) -> bool:
        """Whether logarithms are regressed."""
        return table.wide


def known(table: LatencyTable, log: bool) -> Array:
    """[N, D + F] latencies on the known devices and counts, each of deviation 1, together of length about 1."""
    table = table.filled
    found = standard(np.c_[np.log(table.us), np.log1p(table.counts)] if log else np.c_[table.us, table.counts])
    return np.asarray(found / np.sqrt(max(1, found.shape[1])))


def posterior(z: Array, rows: Rows, us: Array, noise: float, log: bool) -> LatencyEstimate:
    """The regression at the top of this file, on the features z [N, F] and a free level (a constant of variance 9)."""
    y = np.log(us) if log else us
    centre, scale = y.mean(), y.std() or 1.0
    z = np.c_[z, np.full(len(z), np.sqrt(FREE))]
    few = z[rows]
    inverse = np.linalg.inv(few @ few.T + noise * np.eye(len(rows)))
    weighted = inverse @ ((y - centre) / scale)
    mean = centre + scale * (z @ (few.T @ weighted))
    reach = z @ few.T
    variance = (z * z).sum(1) - np.einsum("ij,jk,ik->i", reach, inverse, reach) + noise
    left_out = weighted / np.diag(inverse)
    level = np.sqrt(np.mean(left_out**2 * np.diag(inverse)))
    deviation = scale * np.sqrt(variance.clip(min=noise)) * level
    ratios = np.abs(left_out) * np.sqrt(np.diag(inverse)) / max(level, 1e-12)
    if log:
        # beyond what was measured, an exponential may leave every bound: nothing is 20 times beyond all measurements
        mean = np.exp(np.clip(mean, y.min() - 3, y.max() + 3))
        error = float(np.sqrt(np.mean((us * np.expm1(-scale * left_out)) ** 2)))
        return LatencyEstimate(mean, mean * deviation, error, ratios)
    error = float(scale * np.sqrt(np.mean(left_out**2)))
    return LatencyEstimate(np.maximum(mean, us.min() / 20), deviation, error, ratios)
