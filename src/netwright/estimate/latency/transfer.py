"""Latency on your device from tables of other devices and a few measurements, with an interval, and which to measure.

What to measure needs no label: greedy D-optimal design, the next architecture is the one whose predicted variance is largest

    a* = argmax z(a)^T P z(a),     P <- P - (P z)(P z)^T / (noise + z^T P z),     P = I at first      (Fedorov, 1972)

Intervals are calibrated over devices. Each known device plays the new one: the columns of its group leave the table, what is
proposed without them is measured, and every other architecture has a score

    r_d(a) = |y(a) - predicted(a)| / deviation(a)
    interval: predicted -+ q deviation,       q: the quantile of the scores of all known devices, pooled at equal weights

(Dunn, Wasserman and Ramdas, Distribution-free prediction sets for two-layer hierarchical models, JASA 2022). The level is kept on
average over devices, if yours is like the known ones drawn at random; on one device it may be more or less. Proposals must be
replayed: those for the new device are spread over the known ones and suit each of them too well. With fewer than three known
devices, or one group, the interval is the jackknife's: q is the k-th smallest of the n left-out errors over their deviations,
k = ceil((n + 1) coverage), and infinite where k > n, so that 90 % takes nine measurements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from netwright.core.cost import Quantity
from netwright.core.errors import DataError
from netwright.estimate.latency.kernel import KernelTransfer
from netwright.estimate.latency.method import FREE, LatencyEstimate, LatencyMethod
from netwright.estimate.latency.table import Array, LatencyTable, Rows

FEWEST = 3
LEVELS = (np.arange(200) + 0.5) / 200
REPLAYS, POOL = 5, 2000


@dataclass(frozen=True)
class Prediction:
    """For n architectures in the order asked: median, low and high end of the interval [n], in microseconds."""

    median: Array
    low: Array
    high: Array

    def __len__(self) -> int:
        return len(self.median)

    def __getitem__(self, i: int) -> Quantity:
        """Architecture i as a predicted quantity, its interval as the spread."""
        return Quantity(
            float(self.median[i]), "us", "predicted", (float(self.low[i]), float(self.high[i])), "few-sample transfer"
        )


@dataclass(frozen=True, eq=False)
class LatencyTransfer:
    """Known devices, what was measured on a new one, and how to go from one to the other.

    Attributes:
        table: the known devices.
        measured: architecture of the table -> microseconds on the new device.
        method: the regression.
        coverage: the share of latencies that intervals should hold.
        proposed: whether `propose` chose what was measured; False where it was chosen blindly, say at random.
    """

    table: LatencyTable
    measured: Mapping[Hashable, float] = field(default_factory=dict)
    method: LatencyMethod = field(default_factory=KernelTransfer)
    coverage: float = 0.9
    proposed: bool = True

    @classmethod
    def fit(cls, table: LatencyTable, measured: Mapping[Hashable, float], method: LatencyMethod | None = None,
            coverage: float = 0.9, proposed: bool = True) -> LatencyTransfer:  # fmt: skip
        """A transfer that has checked its measurements; with none it can only `propose`.

        Raises:
            DataError: a measured architecture that the table lacks, a latency that is not positive and finite, or a coverage
                that is not between 0 and 1.
        """
        table.rows(measured)
        for arch, us in measured.items():
            if not (np.isfinite(us) and us > 0):
                raise DataError(f"The latency of {arch!r} is {us}: give microseconds above 0, and leave out what did not run.")
        if not 0 < coverage < 1:
            raise DataError(f"A coverage of {coverage} is no share: give a number between 0 and 1, such as 0.9.")
        return cls(table, dict(measured), method or KernelTransfer(), coverage, proposed)

    @cached_property
    def estimate(self) -> LatencyEstimate:
        """What the method says of all architectures of the table, its deviations not yet calibrated.

        Raises:
            DataError: fewer than three measurements.
        """
        if len(self.measured) < FEWEST:
            found = len(self.measured)
            raise DataError(
                f"{found} measurements are too few: measure what propose(10) names, at least {FEWEST}, and fit again."
            )
        return self.method.estimate(
            self.table, self.table.rows(self.measured), np.array([*self.measured.values()], dtype=np.float64)
        )

    @cached_property
    def quantile(self) -> float:
        """q: how many deviations an interval reaches."""
        rows = self.table.rows(self.measured)
        which = len(rows) if self.proposed else tuple(rows.tolist())
        scores = self.table.remember(("scores", repr(self.method), which), lambda: self._replayed(rows))
        if len(scores) < FEWEST:
            ratios = np.sort(self.estimate.ratios)
            place = math.ceil((len(ratios) + 1) * self.coverage)
            return float(ratios[place - 1]) if place <= len(ratios) else np.inf
        return float(np.quantile(np.concatenate([*scores.values()]), self.coverage))

    def _replayed(self, rows: Rows) -> dict[str, Array]:
        """Known device -> quantiles of its scores where it plays the new one; nothing with a single group."""
        found: dict[str, list[Array]] = {}
        groups = sorted(set(self.table.groups))
        for group in groups if len(groups) > 1 else ():
            others = self.table.without(group)
            blind = LatencyTransfer(others, {}, self.method)
            # where all architectures are candidates, proposals differ by ties alone
            for seed in range(REPLAYS if self.proposed and len(others.archs) > POOL else 1):
                seen = others.rows(blind.propose(len(rows), np.random.default_rng(seed))) if self.proposed else rows
                for device, column in zip(self.table.devices, self.table.us.T, strict=True):
                    here, held = seen[~np.isnan(column[seen])], ~np.isnan(column)
                    held[here] = False
                    if device not in others.devices and len(here) >= FEWEST and held.any():
                        e = self.method.estimate(others, here, column[here])
                        scores = np.abs(column - e.us)[held] / np.maximum(e.deviation[held], 1e-9)
                        found.setdefault(device, []).append(np.quantile(scores, LEVELS))
        return {device: np.concatenate(scores) for device, scores in found.items()}

    def predict(self, archs: Iterable[Hashable]) -> Prediction:
        """Latencies of architectures of the table on the new device. What was measured keeps its measurement, as an interval of
        no width.

        Raises:
            DataError: fewer than three measurements, or an architecture that the table lacks.
        """
        asked = list(archs)
        rows = self.table.rows(asked)
        median, reach = self.estimate.us[rows], self.estimate.deviation[rows] * self.quantile
        low, high = np.maximum(median - reach, 0.0), median + reach
        for i, arch in enumerate(asked):
            if arch in self.measured:
                median[i] = low[i] = high[i] = self.measured[arch]
        return Prediction(median, low, high)

    def propose(self, n: int, generator: np.random.Generator, pool: int = POOL, noise: float = 0.1) -> tuple[Hashable, ...]:
        """Which `n` architectures to measure next, D-optimal behind those that are measured already.

        Args:
            generator: draws the `pool` of candidates where the table holds more.
            noise: variance of a measurement, as in the methods.

        Raises:
            DataError: the table does not hold so many unmeasured architectures.
        """
        rest = np.array([i for a, i in self.table.row.items() if a not in self.measured])
        if not 0 < n <= len(rest):
            raise DataError(f"{n} architectures were asked for and {len(rest)} are unmeasured: ask for 1 to {len(rest)}.")
        if len(rest) > max(pool, n):
            rest = generator.choice(rest, max(pool, n), replace=False)
        z = self.method.features(self.table)
        z = np.c_[z, np.full(len(z), np.sqrt(FREE))]
        # a space of K dimensions lets every product be K x K, however many architectures there are
        spread = np.eye(z.shape[1])
        for row in self.table.rows(self.measured):
            spread = _seen(spread, z[row], noise)
        chosen: list[int] = []
        open_ = np.ones(len(rest), dtype=bool)
        for _ in range(n):
            variance = np.where(open_, np.einsum("ij,jk,ik->i", z[rest], spread, z[rest], optimize=True), -np.inf)
            best = int(generator.choice(np.flatnonzero(variance >= variance.max() * (1 - 1e-9))))
            open_[best] = False
            chosen.append(int(rest[best]))
            spread = _seen(spread, z[rest[best]], noise)
        return tuple(self.table.archs[i] for i in chosen)

    def confirm(self, candidates: Sequence[Hashable], measure: Callable[[Hashable], float],
                limit_us: float) -> tuple[Hashable, Quantity, LatencyTransfer]:  # fmt: skip
        """The first of `candidates` (best first) that keeps the limit when it is measured.

        Predictions only say what to skip: a candidate whose whole interval lies above the limit. Whatever else comes next is
        measured, and what was measured sharpens the predictions of the rest.

        Returns:
            The architecture, its measured latency, and the transfer with all measurements.

        Raises:
            DataError: no candidate keeps the limit.
        """
        known = self
        for arch in candidates:
            if arch not in known.measured:
                if known.predict([arch]).low[0] > limit_us:
                    continue
                known = replace(known, measured={**known.measured, arch: measure(arch)})
                known.__dict__["quantile"] = self.quantile  # replaying the known devices anew for each would take longer
            if known.measured[arch] <= limit_us:
                return arch, Quantity(known.measured[arch], "us", "measured"), known
        tried = len(known.measured) - len(self.measured)
        raise DataError(
            f"None of {len(candidates)} candidates keeps {limit_us:g} us ({tried} measured): raise the limit or add smaller ones."
        )


def _seen(spread: Array, z: Array, noise: float) -> Array:
    along = spread @ z
    return np.asarray(spread - np.outer(along, along) / (noise + z @ along))
