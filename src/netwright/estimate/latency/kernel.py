"""Kernel transfer: a Gaussian process over architectures whose covariance the known devices give, and their operators.

    k(a, b) = x(a).x(b) + s o(a).o(b) + noise [a = b]

x(a): standardised latencies on known devices and counts; o(a): one-hot operators of each place, centred, of length 1 on
average. The first term is the covariance of architectures over the known devices (multi-task Gaussian processes with tasks as
features, Bonilla et al., NIPS 2007); the second says that a new device may price an operator in a way that no known one does, so
that the table of S076 is corrected from the measurements. Latencies of known devices are noisy: where there are operators, x is
read from their additive part, x(a) = sum_l t[l, operator_l], fitted over the whole table (penalty 1).

Differs from the papers: nothing is meta-trained; s and noise are fixed for measurements of variance 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from netwright.core.paper import Paper
from netwright.estimate.latency.method import LatencyEstimate, LatencyMethod, known, posterior
from netwright.estimate.latency.table import Array, LatencyTable, Rows


def additive(table: LatencyTable) -> LatencyTable:
    """The table with each latency replaced by the sum of its operators' in a least-squares table of them (penalty 1)."""
    table, hot = table.filled, table.one_hot
    level = table.us.mean(0)
    weights = np.linalg.solve(hot.T @ hot + np.eye(hot.shape[1]), hot.T @ (table.us - level))
    return replace(table, us=np.maximum(level + hot @ weights, table.us.min(0)))


@dataclass(frozen=True)
class KernelTransfer(LatencyMethod):
    """Gaussian process on known devices, counts and operators.

    Attributes:
        noise: variance of a measurement that nothing explains, where measurements have variance 1.
        operators: variance s of what the new device's operators have of their own; 1 where no device is known, as then all
            that they have is their own.
        smooth: read the known devices through their tables of operators; True also forces this for cells, whose latency is
            only nearly additive.
        log: regress logarithms; by default where the table's latencies span more than a factor 10.
    """

    noise: float = 0.1
    operators: float = 0.03
    smooth: bool = True
    log: bool | None = None

    name: ClassVar[str] = "kernel"
    paper: ClassVar[Paper] = Paper(
        "bonilla2007multitask",
        "Multi-task Gaussian Process Prediction",
        "Edwin V. Bonilla and Kian Ming A. Chai and Christopher K. I. Williams",
        "NIPS",
        2007,
        "https://papers.nips.cc/paper/3189-multi-task-gaussian-process-prediction",
    )

    def domain(self, table: LatencyTable) -> bool:
        return table.wide if self.log is None else self.log

    def features(self, table: LatencyTable) -> Array:
        smooth = self.smooth and table.operators is not None
        return known(additive(table) if smooth else table, self.domain(table))

    def estimate(self, table: LatencyTable, rows: Rows, us: Array) -> LatencyEstimate:
        hot = table.one_hot
        length = np.sqrt(max(1e-12, (hot * hot).sum(1).mean()))
        own = self.operators if table.devices else 1.0
        z = np.c_[self.features(table), np.sqrt(own) * hot / length]
        return posterior(z, rows, us, self.noise, self.domain(table))
