"""Operator lookup: the latency of a network is the sum over its layers, each measured once (S076).

    LAT(a) = sum_l t[l, a_l]                       t: measured time of operator a_l at place l, in microseconds (equation 3)
    y(a)   = overhead + scale * LAT(a)             from whole networks, where there are some: a layer measured alone is slower or
                                                   faster than inside a network, and starting a network costs time too
Where layers were not measured one by one, t is read off whole networks: the ridge regression of their latency on which operator
stands where (as ProxylessNAS fits its tables).

Differs from the paper: overhead and scale; FBNet sums alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from netwright.core.errors import DataError
from netwright.core.paper import Paper
from netwright.estimate.latency.method import LatencyEstimate, LatencyMethod, posterior
from netwright.estimate.latency.table import Array, LatencyTable, Rows


@dataclass(frozen=True)
class OperatorLookup(LatencyMethod):
    """A table of operators' times.

    Attributes:
        times: for each place, operator -> microseconds; empty: learnt from whole networks.
        noise: variance of a measurement that operators do not explain, where measurements have variance 1.
    """

    times: Sequence[Mapping[str, float]] = field(default=())
    noise: float = 0.1

    name: ClassVar[str] = "lookup"
    paper: ClassVar[Paper] = Paper(
        "wu2019fbnet",
        "FBNet: Hardware-Aware Efficient ConvNet Design via Differentiable Neural Architecture Search",
        "Bichen Wu and Xiaoliang Dai and Peizhao Zhang and Yanghan Wang and Fei Sun and Yiming Wu and Yuandong Tian "
        "and Peter Vajda and Yangqing Jia and Kurt Keutzer",
        "CVPR",
        2019,
        "https://arxiv.org/abs/1812.03443",
        "S076",
    )

    def sum(self, operators: Sequence[str]) -> float:
        """LAT of one network in microseconds, without overhead.

        Raises:
            DataError: another number of places, or an operator that was not measured at its place.
        """
        if len(operators) != len(self.times):
            raise DataError(
                f"The lookup table has {len(self.times)} places, the network {len(operators)}: give one operator a place."
            )
        for place, (operator, times) in enumerate(zip(operators, self.times, strict=True)):
            if operator not in times:
                raise DataError(
                    f"Operator {operator!r} was not measured at place {place} (known: {', '.join(times)}): measure it."
                )
        return sum(times[o] for o, times in zip(operators, self.times, strict=True))

    def features(self, table: LatencyTable) -> Array:
        """[N, 1] sums where layers were measured, else [N, K] operators, together of length about 1."""
        if table.operators is None:
            raise DataError("A lookup table needs operators, and this latency table has none: give operators=[N, places].")
        if self.times:
            sums = np.array([self.sum(row) for row in table.operators])
            return np.asarray((sums - sums.mean())[:, None] / (sums.std() or 1.0))
        return np.asarray(table.one_hot / np.sqrt(max(1e-12, (table.one_hot**2).sum(1).mean())))

    def domain(self, table: LatencyTable) -> bool:
        return False

    def estimate(self, table: LatencyTable, rows: Rows, us: Array) -> LatencyEstimate:
        return posterior(self.features(table), rows, us, self.noise, log=False)
