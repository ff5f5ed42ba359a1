"""LatencyTable: what is known of many architectures on other devices, and what can be counted without any device."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from netwright.core.errors import DataError
from netwright.core.graph import Graph
from netwright.core.space import Arch

Array = NDArray[np.float64]
Rows = NDArray[np.intp]
WIDE = 10.0
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """N architectures on D known devices.

    Attributes:
        archs: N distinct names, or any hashable values.
        devices: D names.
        us: latencies [N, D] in microseconds, positive; NaN where nobody measured.
        counts: [N, F] what costs nothing to know (MACs, parameters, activations), not negative; F may be 0.
        operators: [N, L] the name of the operator in each of L places, where the space has places; else None.
        groups: D names of the hardware behind the columns: settings of one machine share theirs, so that they are
            left out together. Each device is its own group by default.

    Raises:
        DataError: shapes that do not fit, repeated names, latencies that are not positive, a device never measured.
    """

    archs: tuple[Hashable, ...]
    devices: tuple[str, ...]
    us: Array
    counts: Array = field(default_factory=lambda: np.empty((0, 0)))
    operators: NDArray[np.str_] | None = None
    groups: tuple[str, ...] = ()
    _remembered: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        n, d = len(self.archs), len(self.devices)
        if not self.counts.size:
            object.__setattr__(self, "counts", np.empty((n, 0)))
        if not self.groups:
            object.__setattr__(self, "groups", self.devices)
        if self.us.shape != (n, d) or len(self.counts) != n or len(self.groups) != d:
            found = f"latencies {self.us.shape}, counts {self.counts.shape}, {len(self.groups)} groups"
            raise DataError(f"A latency table of {n} architectures and {d} devices got {found}: give one row an architecture.")
        if self.operators is not None and len(self.operators) != n:
            raise DataError(f"A latency table of {n} architectures got operators of {len(self.operators)}: give one row each.")
        if len(set(self.archs)) < n or len(set(self.devices)) < d:
            raise DataError("A latency table names an architecture or a device twice: keep one row and one column of each.")
        if np.any(self.us <= 0):
            raise DataError("A latency table holds values of 0 or less: write NaN where a network does not run.")
        if d and np.isnan(self.us).all(0).any():
            empty = self.devices[int(np.isnan(self.us).all(0).argmax())]
            raise DataError(f"Device {empty!r} of the latency table has no measurement: leave its column out.")

    @classmethod
    def read_csv(cls, path: Path, arch: str, devices: Sequence[str], counts: Sequence[str] = (), unit_us: float = 1.0,
                 groups: Mapping[str, str] | None = None, separator: str = "") -> LatencyTable:  # fmt: skip
        """A CSV file (also .gz) with one row an architecture.

        Args:
            arch: column of the architecture's name.
            devices: columns of latencies; an empty cell is NaN.
            counts: columns of counted numbers.
            unit_us: microseconds in the file's unit, 1000 for milliseconds.
            groups: device -> hardware behind it, where several columns share one.
            separator: where given, names are split there into one operator a place.

        Raises:
            DataError: no such file or column, a cell that is no number, or what `LatencyTable` refuses.
        """
        if not path.exists():
            raise DataError(f"There is no latency table {path}: give the path of a CSV file.")
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", newline="") as file:
            rows = list(csv.DictReader(file))
        missing = [c for c in (arch, *devices, *counts) if rows and c not in rows[0]]
        if missing or not rows:
            raise DataError(
                f"{path} has {len(rows)} rows and lacks the columns {missing}: it has {', '.join(rows[0] if rows else ())}."
            )
        try:
            us = np.array([[float(r[d] or "nan") * unit_us for d in devices] for r in rows])
            counted = np.array([[float(r[c]) for c in counts] for r in rows])
        except ValueError as error:
            raise DataError(f"{path} holds a cell that is no number ({error}): leave unmeasured latencies empty.") from None
        names = tuple(r[arch] for r in rows)
        operators = np.array([n.split(separator) for n in names]) if separator else None
        return cls(names, tuple(devices), us, counted, operators, tuple((groups or {}).get(d, d) for d in devices))

    @classmethod
    def of_graphs(cls, graphs: Mapping[Arch, Graph]) -> LatencyTable:
        """Architectures of one space that no device is known for: what can be counted, and what was chosen in each place.

        Args:
            graphs: architecture -> its graph; one without weights will do. Counted are MACs, parameters, bytes of activations
                and operations.

        Raises:
            DataError: no architecture, or architectures of several spaces.
        """
        spaces = {(a.space, tuple(name for name, _ in a.values)) for a in graphs}
        if len(spaces) != 1:
            raise DataError(f"A latency table got architectures of {len(spaces)} spaces: give those of one.")
        counts = np.array([[g.macs, g.parameters, g.activation_bytes, len(g.nodes)] for g in graphs.values()], np.float64)
        operators = np.array([[str(v) for _, v in a.values] for a in graphs])
        return cls(tuple(graphs), (), np.empty((len(graphs), 0)), counts, operators)

    @cached_property
    def row(self) -> dict[Hashable, int]:
        return {a: i for i, a in enumerate(self.archs)}

    def rows(self, archs: Iterable[Hashable]) -> Rows:
        """Places of `archs`; DataError names the first that the table lacks."""
        asked = list(archs)
        for a in asked:
            if a not in self.row:
                raise DataError(
                    f"The latency table of {len(self.archs)} architectures lacks {a!r}: give its row, or another one."
                )
        return np.array([self.row[a] for a in asked], dtype=np.intp)

    def only(self, columns: Sequence[int]) -> LatencyTable:
        """The table of some devices, by their places."""
        names, groups = (tuple(t[c] for c in columns) for t in (self.devices, self.groups))
        table = replace(self, devices=names, us=self.us[:, list(columns)], groups=groups)
        # what does not depend on the devices is worked out once
        table.__dict__.update(one_hot=self.one_hot, row=self.row)
        return table

    def without(self, group: str) -> LatencyTable:
        """The table without the columns of one group."""
        return self.only([i for i, g in enumerate(self.groups) if g != group])

    def remember(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, made once for a key: what follows from the table alone, whatever is measured."""
        if key not in self._remembered:
            self._remembered[key] = make()
        found: T = self._remembered[key]
        return found

    @cached_property
    def wide(self) -> bool:
        """Whether latencies are better compared by their logarithm: the 95th percentile is over 10 times the 5th."""
        if not self.devices:
            return True
        low, high = np.nanpercentile(self.us, [5, 95], axis=0)
        return bool(np.median(high / low) > WIDE)

    @cached_property
    def one_hot(self) -> Array:
        """[N, K] which operator stands where, centred; K = 0 without operators."""
        if self.operators is None:
            return np.empty((len(self.archs), 0))
        hot = np.concatenate([c[:, None] == np.unique(c)[None] for c in self.operators.T], 1).astype(np.float64)
        return np.asarray(hot - hot.mean(0))

    @cached_property
    def filled(self) -> LatencyTable:
        """The table without holes: a missing log-latency is regressed on the other devices and the counts, five rounds.

        Each round is a ridge regression (penalty 1) per device over the rows where it was measured.
        """
        holes = np.isnan(self.us)
        if not holes.any():
            return self
        log = np.log(self.us)
        level = np.nanmean(log, 0)
        known = standard(np.log1p(self.counts))
        y = np.where(holes, np.nan, log - level)
        bare = [_regressed(known, y[:, j], 1.0) for j in range(len(self.devices))]
        # a row that other devices measured starts from their mean, another from what is counted
        alone = np.asarray(holes.all(1))
        others = np.nansum(y, 1) / np.maximum(1, (~holes).sum(1))
        full = np.where(holes, np.where(alone[:, None], np.stack(bare, 1), others[:, None]), y)
        for _ in range(5):
            for j, hole in enumerate(holes.T):
                if hole.any():
                    full[hole, j] = _regressed(np.c_[np.delete(full, j, 1), known], y[:, j], 1.0)[hole]
        return replace(self, us=np.where(holes, np.exp(full + level), self.us))


def standard(x: Array) -> Array:
    """Columns of mean 0 and deviation 1; a constant column is 0."""
    scale = x.std(0)
    return np.asarray((x - x.mean(0)) / np.where(scale > 1e-12 * (1 + np.abs(x).max(0, initial=0)), scale, np.inf))


def _regressed(x: Array, y: Array, penalty: float) -> Array:
    """Ridge regression of y [N], read where it is not NaN, on x [N, F], for all rows."""
    seen = ~np.isnan(y)
    a = np.c_[x, np.ones(len(x))]
    weights = np.linalg.solve(a[seen].T @ a[seen] + penalty * np.eye(a.shape[1]), a[seen].T @ y[seen])
    return np.asarray(a @ weights)
